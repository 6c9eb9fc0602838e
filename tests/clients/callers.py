"""The clients, each with the same few verbs: send one request, send two over one connection with something in between,
send many at once. Every answer is the client's own reading of it."""

import asyncio
import base64
import concurrent.futures
import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import requests

from world import PATIENCE

# How much of an upload goes into one chunk.
PIECE = 40_000


@dataclass
class Request:
    method: str
    path: str
    headers: dict = field(default_factory=dict)
    body: bytes | None = None
    chunked: bool = False


@dataclass
class Answer:
    status: int
    headers: dict
    body: bytes

    def json(self):
        return json.loads(self.body)


def answer(status, headers, body):
    return Answer(status, {name.lower(): value for name, value in headers}, body)


def pieces(body):
    return (body[start : start + PIECE] for start in range(0, len(body), PIECE))


class Curl:
    """A process of curl for each call; both calls of a pair in one."""

    name = "curl"

    def __init__(self, url):
        self.url = url

    def send(self, request):
        with tempfile.TemporaryDirectory() as folder:
            args = self.args(request, Path(folder), "one")
            done = self.run(args, request.body if request.chunked else None)
            self.said = done.stderr.decode()
            return self.read(Path(folder), "one")

    def pair(self, first, between, second):
        """The first answer's body goes into a pipe that nobody reads yet: curl waits there, its connection open, while
        `between` happens."""
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            pipe = folder / "a.body"
            os.mkfifo(pipe)
            args = [*self.args(first, folder, "a"), "--next", *self.args(second, folder, "b")]
            with subprocess.Popen(["curl", *args], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as curl:
                try:
                    between()
                    body = pipe.read_bytes()
                    _, err = curl.communicate(timeout=PATIENCE)
                    assert curl.returncode == 0, err
                finally:
                    curl.kill()
            pipe.unlink()
            pipe.write_bytes(body)
            return self.read(folder, "a"), self.read(folder, "b")

    def series(self, request, count):
        """The same call, one after the other, over one connection."""
        return self.statuses([f"{self.url(request.path)}?n=[1-{count}]"], request)

    def at_once(self, request, count):
        return self.statuses(["--parallel", "--parallel-immediate", "--parallel-max", str(count), f"{self.url(request.path)}?n=[1-{count}]"], request)

    def statuses(self, args, request):
        headers = [arg for name, value in request.headers.items() for arg in ("-H", f"{name}: {value}")]
        done = self.run(["-sS", "--noproxy", "*", "-m", str(PATIENCE), "-o", os.devnull, "-w", "%{http_code}\\n", *headers, *args])
        return [int(line) for line in done.stdout.split()]

    def args(self, request, folder, name):
        args = ["-v", "-sS", "--http1.1", "--noproxy", "*", "-m", str(PATIENCE), "-D", str(folder / f"{name}.head"), "-o", str(folder / f"{name}.body")]
        args += ["-I"] if request.method == "HEAD" else ["-X", request.method]
        for header, value in request.headers.items():
            args += ["-H", f"{header}: {value}"]
        if request.chunked:
            args += ["-T", "-"]
        elif request.body is not None:
            (folder / f"{name}.upload").write_bytes(request.body)
            args += ["-T", str(folder / f"{name}.upload")]
        return [*args, self.url(request.path)]

    def run(self, args, stdin=b""):
        done = subprocess.run(["curl", *args], input=stdin or b"", capture_output=True, timeout=2 * PATIENCE)
        assert done.returncode == 0, f"curl ends with {done.returncode}: {done.stderr[-500:]}"
        return done

    def read(self, folder, name):
        # Interim answers (100) stand before the last head.
        head = (folder / f"{name}.head").read_text().strip().split("\r\n\r\n")[-1].split("\n\n")[-1]
        lines = head.splitlines()
        fields = [line.split(": ", 1) for line in lines[1:] if ": " in line]
        body = folder / f"{name}.body"
        # For -I, curl writes the head where the body would be.
        shown = body.read_bytes() if body.exists() else b""
        return answer(int(re.match(r"HTTP/1\.1 (\d{3})", lines[0])[1]), fields, b"" if shown.startswith(b"HTTP/1.1 ") else shown)

    def close(self):
        pass


class InProcess:
    """What the two Python libraries have in common."""

    def pair(self, first, between, second):
        before = self.send(first)
        between()
        return before, self.send(second)

    def series(self, request, count):
        return [self.send(request).status for _ in range(count)]


class Requests(InProcess):
    name = "requests"

    def __init__(self, url):
        self.url = url
        self.session = self.fresh()

    def fresh(self):
        session = requests.Session()
        session.trust_env = False
        return session

    def send(self, request, session=None):
        body = pieces(request.body) if request.chunked else request.body
        got = (session or self.session).request(request.method, self.url(request.path), headers=request.headers, data=body, timeout=PATIENCE)
        return answer(got.status_code, got.headers.items(), got.content)

    def at_once(self, request, count):
        # A session is not made for several threads.
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda _: self.send(request, self.fresh()).status, range(count)))

    def close(self):
        self.session.close()


class Httpx(InProcess):
    name = "httpx"

    def __init__(self, url):
        self.url = url
        self.client = httpx.Client(trust_env=False, timeout=PATIENCE)

    def send(self, request):
        body = pieces(request.body) if request.chunked else request.body
        got = self.client.request(request.method, self.url(request.path), headers=request.headers, content=body)
        return answer(got.status_code, got.headers.items(), got.content)

    def at_once(self, request, count):
        async def all_of_them():
            async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
                calls = (client.request(request.method, self.url(request.path), headers=request.headers) for _ in range(count))
                return [got.status_code for got in await asyncio.gather(*calls)]

        return asyncio.run(all_of_them())

    def close(self):
        self.client.close()


class Node(InProcess):
    """A process of node that calls what it reads, line by line."""

    name = "fetch"

    def __init__(self, url):
        self.url = url
        script = Path(__file__).with_name("fetch.mjs")
        self.node = subprocess.Popen(["node", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, request, count):
        order = {"method": request.method, "url": self.url(request.path), "headers": request.headers, "count": count, "patience": PATIENCE}
        if request.body is not None:
            order |= {"pieces": [base64.b64encode(piece).decode() for piece in pieces(request.body)], "chunked": request.chunked}
        self.node.stdin.write(json.dumps(order).encode() + b"\n")
        self.node.stdin.flush()
        told = json.loads(self.node.stdout.readline())
        assert "error" not in told, told["error"]
        return [answer(got["status"], got["headers"], base64.b64decode(got["body"])) for got in told["answers"]]

    def send(self, request):
        return self.ask(request, 1)[0]

    def at_once(self, request, count):
        return [got.status for got in self.ask(request, count)]

    def close(self):
        self.node.stdin.close()
        try:
            self.node.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.node.kill()
            self.node.wait()
        self.node.stdout.close()


ALL = [Curl, Requests, Httpx, Node]
