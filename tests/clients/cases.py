"""What every client must see. A case gets the world, a client, and that client's own machine with a key."""

import gzip
import time
from urllib.parse import quote

from callers import Request
from world import MIB, poll

# Each case with the names of the clients that cannot do what it asks.
CASES = []


def case(function, unable=()):
    CASES.append((function, unable))
    return function


class Holder:
    """A machine of a client's own, which may read sensors and write files, and its key."""

    def __init__(self, world, client):
        self.name = f"Relevé {client} – nord"
        self.world = world
        self.machine = world.machine(self.name, "--permission", "sensors:read", "--permission", "files:write")
        self.key, self.value = world.key(self.name, f"{client} - the one for most cases")
        self.count = 0

    def another(self, *args):
        """One more key, with a bucket or an end of its own."""
        self.count += 1
        return self.world.key(self.name, f"{self.name} - spare {self.count}", *args)


def bearer(value):
    return {"Authorization": f"Bearer {value}"}


def equal(seen, expected, what):
    if seen != expected:
        raise AssertionError(f"{what}: {short(seen)} instead of {short(expected)}")


def short(value):
    text = repr(value)
    return text if len(text) < 300 else text[:300] + "…"


def refused(got, status, code):
    """An answer of the gateway's own says in one way what it is about, and is not kept by caches."""
    equal((got.status, got.headers.get("content-type")), (status, "application/problem+json"), "status and type")
    equal(got.headers.get("cache-control"), "no-store", "Cache-Control")
    problem = got.json()
    equal((problem["status"], problem["code"]), (status, code), "problem")
    for field in ("type", "title", "detail", "request_id"):
        assert problem[field], f"{field} is missing"
    equal(got.headers.get("x-request-id"), problem["request_id"], "request id")
    return problem


@case
def a_key_gets_through_with_the_answer_untouched(world, client, holder):
    got = client.send(Request("GET", "/v1/sensors", bearer(holder.value)))
    equal((got.status, got.headers["content-type"]), (200, "application/json"), "answer")
    equal(got.body, world.sensors, "body")
    assert "ratelimit" in got.headers and "ratelimit-policy" in got.headers, got.headers


@case
def each_place_of_the_credential_works_and_none_reaches_the_upstream(world, client, holder):
    for path, headers in [
        ("/v1/echo?a=1&b=%20x", bearer(holder.value)),
        (f"/v1/echo?a=1&api_key={holder.value}&b=%20x", {}),
        ("/v1/echo?a=1&b=%20x", {"X-API-Key": holder.value}),
    ]:
        got = client.send(Request("GET", path, headers))
        equal(got.status, 200, "status")
        echo = got.json()
        equal((echo["args"], echo["authorization"], echo["api_key"]), ("a=1&b=%20x", "", ""), "what the upstream saw")


@case
def the_upstream_learns_who_calls_whatever_the_client_claims(world, client, holder):
    forged = {"X-Machine-Name": "root", "X-Machine-Id": "mac_0", "X-Key-Id": "key_0", "X-Key-Environment": "none", "X-Request-Id": f"{client.name}-17"}
    echo = client.send(Request("GET", "/v1/echo", bearer(holder.value) | forged)).json()
    equal((echo["machine_id"], echo["key"], echo["environment"]), (holder.machine["id"], holder.key, "prod"), "identity")
    equal(echo["machine"].upper(), quote(holder.name).upper(), "machine name")
    equal((echo["request"], echo["forwarded"]), (f"{client.name}-17", "127.0.0.1"), "request id and address")


@case
def who_has_no_key_is_refused(world, client, holder):
    got = client.send(Request("GET", "/v1/sensors"))
    refused(got, 401, "key_missing")
    equal(got.headers["www-authenticate"], 'Bearer realm="octroi"', "challenge")


@case
def a_value_that_is_none_is_refused(world, client, holder):
    value = holder.value
    for wrong in ("rubbish", value[:-1], value[:-1] + ("0" if value[-1] != "0" else "1"), value + "0"):
        refused(client.send(Request("GET", "/v1/sensors", {"X-API-Key": wrong})), 401, "key_malformed")
    key, value = holder.another()
    world.command("key", "delete", key, "--yes")
    refused(client.send(Request("GET", "/v1/sensors", bearer(value))), 401, "key_unknown")


@case
def two_different_values_are_refused(world, client, holder):
    _, other = holder.another()
    got = client.send(Request("GET", "/v1/sensors", bearer(holder.value) | {"X-API-Key": other}))
    refused(got, 400, "key_ambiguous")


@case
def a_permission_that_is_missing_is_named(world, client, holder):
    problem = refused(client.send(Request("GET", "/v1/config", bearer(holder.value))), 403, "permission_denied")
    equal(problem["permission"], "config:write", "permission")


@case
def no_route_and_no_method_are_told_apart(world, client, holder):
    refused(client.send(Request("GET", "/nowhere", bearer(holder.value))), 404, "route_not_found")
    got = client.send(Request("DELETE", "/v1/sensors", bearer(holder.value)))
    refused(got, 405, "method_not_allowed")
    equal(sorted(got.headers["allow"].replace(" ", "").split(",")), ["GET", "HEAD"], "Allow")


@case
def who_waits_as_long_as_retry_after_says_is_let_in(world, client, holder):
    _, value = holder.another("--tier", "drip")
    call = Request("GET", "/v1/sensors", bearer(value))
    # Between two calls a whole second can pass on a busy machine; then the second one is rightly let in.
    got = next((got for got in (client.send(call) for _ in range(20)) if got.status != 200), None)
    assert got is not None, "20 calls in a row are no more than one a second?"
    problem = refused(got, 429, "rate_limited")
    equal(got.headers["retry-after"], "1", "Retry-After")
    equal(problem["retry_after"], 1, "retry_after")
    # What the answer says is what is tested here.
    time.sleep(int(got.headers["retry-after"]))
    equal(client.send(call).status, 200, "after the wait")


@case
def a_day_s_quota_ends(world, client, holder):
    _, value = holder.another("--tier", "pair")
    call = Request("GET", "/v1/sensors", bearer(value))
    equal([client.send(call).status for _ in range(2)], [200, 200], "within")
    got = client.send(call)
    refused(got, 429, "quota_exceeded")
    assert 1 <= int(got.headers["retry-after"]) <= 86_400, got.headers["retry-after"]


@case
def calls_at_once_are_admitted_to_the_limit_and_no_further(world, client, holder):
    rounds = 10 if world.long else 1
    for _ in range(rounds):
        _, value = holder.another("--tier", "ten")
        seen = client.at_once(Request("GET", "/v1/echo", bearer(value)), 30)
        equal((seen.count(200), seen.count(429)), (10, 20), "admitted and refused")


@case
def a_download_of_1_mib_arrives_byte_by_byte(world, client, holder):
    got = client.send(Request("GET", "/v1/files/big.bin", bearer(holder.value)))
    equal((got.status, got.headers["content-length"]), (200, str(MIB)), "head")
    assert got.body == world.big, f"{len(got.body)} bytes that differ"


@case
def a_range_of_a_download_is_the_upstream_s(world, client, holder):
    got = client.send(Request("GET", "/v1/files/big.bin", bearer(holder.value) | {"Range": "bytes=1000-1999"}))
    equal((got.status, got.headers["content-range"]), (206, f"bytes 1000-1999/{MIB}"), "head")
    assert got.body == world.big[1000:2000]


@case
def head_has_the_head_and_no_body(world, client, holder):
    got = client.send(Request("HEAD", "/v1/files/big.bin", bearer(holder.value)))
    equal((got.status, got.headers["content-length"], got.body), (200, str(MIB), b""), "answer")
    got = client.send(Request("HEAD", "/v1/sensors"))
    equal((got.status, got.body), (401, b""), "refusal")


@case
def an_upload_with_a_length_arrives(world, client, holder):
    upload(world, client, holder, "sized.bin", chunked=False)


@case
def an_upload_in_chunks_arrives(world, client, holder):
    upload(world, client, holder, "chunked.bin", chunked=True)


def upload(world, client, holder, name, chunked):
    name = f"{client.name}-{name}"
    got = client.send(Request("PUT", f"/v1/files/{name}", bearer(holder.value), world.big, chunked))
    equal(got.status, 201, "status")
    assert world.uploaded(name) == world.big, "the upstream has other bytes"


@case
def a_refused_upload_is_answered_and_reaches_nobody(world, client, holder):
    name = f"{client.name}-refused.bin"
    got = client.send(Request("PUT", f"/v1/files/{name}", {}, b"some bytes", chunked=True))
    refused(got, 401, "key_missing")
    assert not (world.dir / "api" / "v1" / "files" / name).exists()


def expect_100_continue_is_answered_once_the_call_is_admitted(world, client, holder):
    name = f"{client.name}-expect.bin"
    expects = {"Expect": "100-continue"}
    got = client.send(Request("PUT", f"/v1/files/{name}", bearer(holder.value) | expects, world.big))
    equal(got.status, 201, "status")
    assert world.uploaded(name) == world.big, "the upstream has other bytes"
    if client.name == "curl":
        assert "> Expect: 100-continue" in client.said and "< HTTP/1.1 100" in client.said, client.said[-1500:]
        got = client.send(Request("PUT", f"/v1/files/{name}", expects, world.big))
        refused(got, 401, "key_missing")
        assert "< HTTP/1.1 100" not in client.said, "asked for the body of a refused call"
    echo = client.send(Request("POST", "/v1/echo", bearer(holder.value) | expects, b"{}")).json()
    equal(echo["expect"], "", "what the upstream saw of Expect")


# By its standard, fetch never sends Expect.
case(expect_100_continue_is_answered_once_the_call_is_admitted, unable=("fetch",))


@case
def gzip_passes(world, client, holder):
    got = client.send(Request("GET", "/v1/sensors", bearer(holder.value) | {"Accept-Encoding": "gzip"}))
    equal((got.status, got.headers["content-encoding"], got.headers["vary"]), (200, "gzip", "Accept-Encoding"), "head")
    # curl shows what came; the others unpack by themselves.
    equal(gzip.decompress(got.body) if client.name == "curl" else got.body, world.sensors, "body")


@case
def one_connection_carries_many_calls(world, client, holder):
    count = 2_000 if world.long else 50
    fresh = type(client)(world.url)
    try:
        before = world.connections()
        seen = fresh.series(Request("GET", "/v1/sensors", bearer(holder.value)), count)
        equal(seen, [200] * count, "statuses")
        equal(world.connections() - before, 1, "connections")
    finally:
        fresh.close()


@case
def a_change_binds_the_very_next_request_on_a_kept_connection(world, client, holder):
    changes = [("deactivate", [], 401, "key_inactive"), ("revoke", ["--yes"], 401, "key_revoked"), ("regenerate", [], 401, "key_replaced")]
    for verb, args, status, code in changes:
        key, value = holder.another()
        binds(world, client, value, lambda: change(world, "key", verb, key, *args), (status, code))
    # The other way round, on what was made above.
    key, value = holder.another()
    world.command("key", "deactivate", key)
    before, after = kept(world, client, value, lambda: world.command("key", "reactivate", key))
    refused(before, 401, "key_inactive")
    equal(after.status, 200, "after reactivating")


@case
def disabling_a_machine_binds_the_very_next_request_on_a_kept_connection(world, client, holder):
    name = f"{holder.name}, for a while"
    world.machine(name, "--permission", "sensors:read")
    _, value = world.key(name, f"{name} - its key")
    binds(world, client, value, lambda: world.command("machine", "disable", name), (401, "machine_disabled"))


def change(world, *args):
    said = world.command(*args, *(["--quiet"] if "regenerate" in args else []))
    if "regenerate" in args:
        world.secrets.append(said.strip())


def binds(world, client, value, between, refusal):
    before, after = kept(world, client, value, between)
    equal(before.status, 200, "before")
    refused(after, *refusal)


def kept(world, client, value, between):
    """Two calls over one connection, and `between` after the first has been judged, before the second begins."""
    fresh = type(client)(world.url)
    try:
        known = world.connections()
        lines = len(world.access_lines())

        def judged_then_changed():
            poll(lambda: len(world.access_lines()) > lines)
            between()

        call = Request("GET", "/v1/sensors", bearer(value))
        answers = fresh.pair(call, judged_then_changed, call)
        equal(world.connections() - known, 1, "connections")
        return answers
    finally:
        fresh.close()
