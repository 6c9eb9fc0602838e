"""Has schemathesis call the admin API of a real gateway, with an operator's token, by what the gateway says of itself."""

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Nothing here takes seconds; who waits longer waits in vain.
PATIENCE = 30

SETTINGS = """
listeners: {public: {bind: '127.0.0.1:0'}}
admin: {bind: '127.0.0.1:%d'}
store: {path: data}
permissions: {'sensors:read': {}, 'config:write': {}}
upstreams: {nobody: {targets: ['http://127.0.0.1:9']}}
routes: {sensors: {match: {path: /v1/sensors}, permission: 'sensors:read', upstream: nobody}}
logs: {access: off}
"""

CONFIG = """
hooks = "hooks"

[checks]
# An id that nobody has, a name that is taken, a state that has changed: fine requests, and yet not done.
positive_data_acceptance.expected-statuses = ["2xx", 304, 404, 409, 412, 422]
negative_data_rejection.expected-statuses = [400, 401, 404, 405, 409, 412, 422]
missing_required_header.expected-statuses = [400, 401, 404]
"""


HOOKS = """
import schemathesis

NOBODY = "op_0%(zeros)s"
ITSELF = "%(itself)s"
FOLDER = "%(folder)s"


@schemathesis.hook
def before_call(context, case, kwargs):
    # Whoever disables the operator whose token is used has asked for nothing more.
    if case.path_parameters.get("id") == ITSELF:
        case.path_parameters["id"] = NOBODY
    # Whatever begins with / is a folder, which would be made and filled.
    if isinstance(case.body, dict) and str(case.body.get("to", "")).startswith("/"):
        case.body["to"] = FOLDER


@schemathesis.hook
def filter_failure(context, failure, case, response):
    # What happened to a machine, key or operator is told of those that were deleted, too: no description has words for that.
    return not (type(failure).__name__ == "UseAfterFree" and case.path.endswith("/activity"))
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(address, path, token=None):
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


class Gateway:
    """A gateway with an operator in it."""

    def __init__(self, octroi, folder):
        self.address = f"127.0.0.1:{free_port()}"
        settings = Path(folder) / "octroi.yaml"
        settings.write_text(SETTINGS % int(self.address.split(":")[1]))
        self.log = Path(folder) / "octroi.err"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([octroi, "serve", "--config", settings], stdin=subprocess.DEVNULL, stderr=log)
        self._ready()
        rights = [word for right in ("machines:write", "keys:verify", "platform:configure") for word in ("--right", right)]
        create = [octroi, "operator", "create", "schemathesis", *rights, "--quiet", "--config", settings]
        self.token = subprocess.run(create, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout.strip()

    def _ready(self):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if get(self.address, "/readyz")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise RuntimeError("the gateway does not start:\n" + self.log.read_text())

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)
        return "panicked" not in self.log.read_text()


def post(address, path, token, body):
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request("POST", path, headers=headers, body=json.dumps(body))
    answer = connection.getresponse()
    made = json.loads(answer.read())
    connection.close()
    if answer.status not in (200, 201):
        raise RuntimeError(f"{path}: {made}")
    return made


def populate(address, token):
    """Ids that somebody has, so that actions find what they act on. Enough of them that deleting some leaves others."""
    machines = [post(address, "/v1/machines", token, {"name": f"machine {n}", "permissions": ["sensors:read"]})["id"] for n in range(30)]
    keys = [{"machine": machine, "label": f"prod - billing v{n}"} for machine in machines for n in range(3)]
    made = post(address, "/v1/keys/bulk", token, {"keys": keys})["data"]
    rights = ["machines:read", "keys:verify"]
    operators = [post(address, "/v1/operators", token, {"name": f"operator {n}", "rights": rights})["id"] for n in range(30)]
    return {"MachineId": machines, "KeyId": [item["key"]["id"] for item in made], "OperatorId": operators}


def description(address, token, folder):
    """The gateway's own, made narrower where it cannot know what this gateway's settings name and what JSON Schema cannot say."""
    document = json.loads(get(address, "/openapi.json")[1])
    schemas = document["components"]["schemas"]
    for name, path in (("PermissionName", "permissions"), ("TierName", "tiers")):
        known = json.loads(get(address, f"/v1/{path}", token)[1])["data"]
        schemas[name] = {"enum": [row["name"] for row in known]}
    schemas["Network"] = {"enum": ["192.0.2.7", "10.0.0.0/8", "fd00::/8", "2001:db8::1"]}
    schemas["Organization"] = {"type": "string", "pattern": "^[!-~]{1,128}$"}
    for name, ids in populate(address, token).items():
        schemas[name] = {"anyOf": [{"enum": ids}, schemas[name]]}
    schemas["Folder"] = {"enum": [str(folder / "archive")]}
    # Of many keys each is judged by itself: what is wrong with one is told in its place of a good answer.
    schemas["NewKeyOfMachine"] = {"anyOf": [schemas["NewKeyOfMachine"], {}]}
    # Of the pattern of a list of tags schemathesis makes texts that do not match it.
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        for parameter in operation["parameters"]:
            if parameter["name"] in ("If-Match", "If-None-Match"):
                parameter["schema"] = {"enum": ["*", '"0"', 'W/"1.00000000", "2"']}
    return document


def run(schemathesis, address, token, folder, examples, seconds):
    itself = json.loads(get(address, "/v1/whoami", token)[1])["operator"]["id"]
    (folder / "hooks.py").write_text(HOOKS % {"zeros": "0" * 25, "itself": itself, "folder": folder / "archive"})
    (folder / "schemathesis.toml").write_text(CONFIG)
    (folder / "openapi.json").write_text(json.dumps(description(address, token, folder)))
    command = [schemathesis, "--config-file", folder / "schemathesis.toml", "run", folder / "openapi.json"]
    command += ["--url", f"http://{address}", "--header", f"Authorization: Bearer {token}", "--checks", "all", "--mode", "all"]
    command += ["--max-examples", str(examples), "--seed", "7", "--continue-on-failure", "--request-timeout", "10", "--no-color"]
    return subprocess.run(command, cwd=folder, timeout=seconds, stdin=subprocess.DEVNULL).returncode == 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--octroi", required=True)
    parser.add_argument("--schemathesis", required=True)
    parser.add_argument("--long", action="store_true", default=os.environ.get("OCTROI_LONG") == "1")
    args = parser.parse_args()
    examples, seconds = (300, 3600) if args.long else (15, 600)
    with tempfile.TemporaryDirectory(prefix="octroi-admin-api-") as folder:
        gateway = Gateway(os.path.abspath(args.octroi), folder)
        try:
            good = run(args.schemathesis, gateway.address, gateway.token, Path(folder), examples, seconds)
        finally:
            whole = gateway.stop()
    if not good:
        print("FAILED admin_api: the gateway does not do as it says")
    if not whole:
        print("FAILED admin_api: the gateway panicked")
    passed = int(good) + int(whole)
    print(f"clients: {passed} passed, {2 - passed} failed, 0 skipped")
    sys.exit(0 if passed == 2 else 1)


if __name__ == "__main__":
    main()
