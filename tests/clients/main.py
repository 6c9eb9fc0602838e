"""Runs every case with every client and prints one line for each."""

import argparse
import os
import sys
import tempfile
import traceback

import callers
import cases
from world import World


class Tally:
    def __init__(self):
        self.passed = self.failed = 0

    def run(self, client, what, check):
        try:
            check()
        except Exception as error:  # whatever goes wrong in a case is its failure
            self.failed += 1
            print(f"FAILED {client}: {what}: {type(error).__name__}: {error}")
            where = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
            print(f"    at {' > '.join(where)}", flush=True)
        else:
            self.passed += 1
            print(f"ok {client}: {what}", flush=True)


def words(function):
    return function.__name__.replace("_", " ")


def with_client(world, kind, tally):
    client = kind(world.url)
    try:
        holder = cases.Holder(world, kind.name)
        for case, unable in cases.CASES:
            if kind.name not in unable:
                tally.run(kind.name, words(case), lambda: case(world, client, holder))
    finally:
        client.close()


def at_the_end(world, tally):
    def drained():
        cases.equal(world.drain(), 0, "exit code")

    def silent():
        for log in ("access.log", "nginx-access.log", "octroi.err"):
            assert (world.dir / log).stat().st_size > 0, f"{log} is empty: nothing was looked through"
        cases.equal(world.leaks(), [], "files with a key's value")

    def told():
        assert "panicked" not in (world.dir / "octroi.err").read_text()

    tally.run("gateway", "drains on SIGTERM", drained)
    tally.run("gateway", "no value stands in any file of gateway or upstream", silent)
    tally.run("gateway", "did not panic", told)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--octroi", required=True)
    parser.add_argument("--long", action="store_true", default=os.environ.get("OCTROI_LONG") == "1")
    args = parser.parse_args()
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="octroi-clients-", ignore_cleanup_errors=True) as folder:
        world = World(os.path.abspath(args.octroi), folder, args.long)
        try:
            for kind in callers.ALL:
                with_client(world, kind, tally)
            at_the_end(world, tally)
        finally:
            world.stop()
    print(f"clients: {tally.passed} passed, {tally.failed} failed, 0 skipped")
    sys.exit(0 if tally.failed == 0 else 1)


if __name__ == "__main__":
    main()
