"""What stands around the clients: a real nginx as the API, the real gateway in front of it, and its real commands."""

import http.client
import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

MIB = 1 << 20
# Nothing here takes seconds; who waits longer waits in vain.
PATIENCE = 30

NGINX = """
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/nginx-error.log;
{user}
worker_processes 1;
events {{ worker_connections 256; }}
http {{
    # Everything a credential could hide in is logged, so that a leak is seen.
    log_format all '$request "$http_authorization" "$http_x_api_key" $status';
    access_log {dir}/nginx-access.log all;
    client_body_temp_path {dir}/tmp/body;
    proxy_temp_path {dir}/tmp/proxy;
    fastcgi_temp_path {dir}/tmp/fastcgi;
    uwsgi_temp_path {dir}/tmp/uwsgi;
    scgi_temp_path {dir}/tmp/scgi;
    client_max_body_size 0;
    keepalive_timeout 75s;
    gzip on;
    gzip_proxied any;
    gzip_types application/json;
    gzip_vary on;
    types {{ application/json json; application/octet-stream bin; }}
    server {{
        listen 127.0.0.1:{port};
        root {dir}/api;
        location = /v1/sensors {{ try_files /v1/sensors.json =404; }}
        location = /v1/echo {{
            default_type application/json;
            return 200 '{{"method":"$request_method","args":"$args","machine":"$http_x_machine_name","machine_id":"$http_x_machine_id","key":"$http_x_key_id","environment":"$http_x_key_environment","request":"$http_x_request_id","authorization":"$http_authorization","api_key":"$http_x_api_key","forwarded":"$http_x_forwarded_for","expect":"$http_expect"}}';
        }}
        location /v1/files/ {{
            dav_methods PUT;
            create_full_put_path on;
        }}
    }}
}}
"""

SETTINGS = """
listeners: {{public: {{bind: '127.0.0.1:0'}}}}
admin: {{bind: false}}
store: {{path: data}}
guessing: false
permissions:
  sensors:read: {{}}
  files:write: {{}}
  config:write: {{}}
tiers:
  free: {{per_minute: 60000}}
  drip: {{per_second: 1}}
  ten: {{per_hour: 10}}
  pair: {{per_day: 2}}
upstreams:
  nginx: {{targets: ['http://127.0.0.1:{port}']}}
routes:
  sensors: {{match: {{path: /v1/sensors, methods: [GET]}}, permission: sensors:read, upstream: nginx}}
  echo: {{match: {{path: /v1/echo}}, permission: any, upstream: nginx}}
  files: {{match: {{path: '/v1/files/{{*rest}}'}}, permission: files:write, upstream: nginx}}
  config: {{match: {{path: /v1/config}}, permission: config:write, upstream: nginx}}
logs: {{access: access.log}}
"""


class World:
    """nginx, the gateway, and what was made in it."""

    def __init__(self, octroi, folder, long):
        self.octroi = octroi
        self.dir = Path(folder)
        self.long = long
        self.secrets = []
        self.processes = []
        self.sensors, self.big = self._api()
        self._nginx()
        self._gateway()

    def _api(self):
        """The files of the API: some JSON worth compressing, and 1 MiB of what cannot be."""
        dice = random.Random(2)
        files = self.dir / "api" / "v1" / "files"
        files.mkdir(parents=True)
        (self.dir / "tmp").mkdir()
        sensors = json.dumps({"data": [{"id": i, "name": f"Capteur n° {i}", "celsius": dice.random()} for i in range(200)]})
        (files.parent / "sensors.json").write_text(sensors)
        (files / "big.bin").write_bytes(dice.randbytes(MIB))
        return sensors.encode(), (files / "big.bin").read_bytes()

    def uploaded(self, name):
        return (self.dir / "api" / "v1" / "files" / name).read_bytes()

    def _nginx(self):
        """A free port can be taken by somebody else before nginx has it: then the next one."""
        user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
        for _ in range(5):
            self.port = free_port()
            (self.dir / "nginx.conf").write_text(NGINX.format(dir=self.dir, port=self.port, user=user))
            nginx = self._start("nginx", ["nginx", "-p", str(self.dir), "-c", str(self.dir / "nginx.conf")])
            if poll(lambda: nginx.poll() is not None or listens(self.port)) and nginx.poll() is None:
                return
        raise RuntimeError("nginx does not start:\n" + (self.dir / "nginx.err").read_text())

    def _gateway(self):
        settings = self.dir / "octroi.yaml"
        settings.write_text(SETTINGS.format(port=self.port))
        self.socket = self.dir / "data" / "admin.sock"
        self.gateway = self._start("octroi", [self.octroi, "serve", "--config", str(settings)])
        self.address = poll(lambda: self.gateway.poll() is not None or self._listening())
        if self.gateway.poll() is not None:
            raise RuntimeError("the gateway does not start:\n" + (self.dir / "octroi.err").read_text())

    def _listening(self):
        """The address that the gateway says it listens on."""
        for line in (self.dir / "octroi.err").read_text().splitlines():
            said = json.loads(line)
            if said.get("message") == "listening":
                return said["address"]
        return None

    def _start(self, name, command):
        with open(self.dir / f"{name}.out", "ab") as out, open(self.dir / f"{name}.err", "ab") as err:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        self.processes.append(process)
        return process

    def url(self, path):
        return f"http://{self.address}{path}"

    def command(self, *args):
        """One of the gateway's commands; what it prints."""
        done = subprocess.run(
            [self.octroi, *args, "--socket", str(self.socket)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE
        )
        if done.returncode != 0:
            raise RuntimeError(f"octroi {args} ends with {done.returncode}: {done.stderr}")
        return done.stdout

    def machine(self, name, *args):
        return json.loads(self.command("machine", "create", name, "--output", "json", *args))

    def key(self, machine, label, *args):
        """A new key's id and value."""
        made = json.loads(self.command("key", "create", "--machine", machine, "--label", label, "--output", "json", *args))
        self.secrets.append(made["secret"])
        key = made.get("key", made)
        return key["id"], made["secret"]

    def connections(self):
        """How many connections clients have opened so far."""
        connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.socket))
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return next(int(line.split()[1]) for line in lines if line.startswith("octroi_connections_accepted_total "))

    def access_lines(self):
        return [json.loads(line) for line in (self.dir / "access.log").read_text().splitlines()]

    def drain(self):
        """Stops the gateway as a service manager does; its exit code."""
        self.gateway.send_signal(signal.SIGTERM)
        return self.gateway.wait(PATIENCE)

    def leaks(self):
        """Every file in which a key's value stands."""
        values = [value.encode() for value in self.secrets]
        files = [path for path in self.dir.rglob("*") if path.is_file()]
        return [str(path.relative_to(self.dir)) for path in files if any(value in path.read_bytes() for value in values)]

    def stop(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def poll(ready):
    """What `ready` gives once it gives something, within bounds."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := ready():
            return found
        time.sleep(0.01)
    raise TimeoutError("waited in vain")
