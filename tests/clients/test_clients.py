"""The public clients of Triton's and KServe's protocols, unchanged, against the built server.

    JITNEY_BIN=target/debug/jitney target/clients/venv/bin/python tests/clients/test_clients.py [WORD]...

With words, only the checks whose names have one of them are run. Every check prints a line.
"""

import sys
import time

import autobahn
import exchanges
import grpc_plain
import grpc_streams
import http2_rules
import openapi
import perf
import plain_http
import repository
import triton
import websocket_rules
from faces import open_faces
from suite import Report
from world import World, kserve

# Each asks one server in its own way.
SUITES = [plain_http, grpc_plain, grpc_streams, http2_rules, websocket_rules, autobahn, perf]


def main():
    started = time.monotonic()
    report = Report(sys.argv[1:])
    with World() as world:
        with open_faces(world) as faces:
            for name, face in faces.all.items():
                triton.SUITE.run(report, world, face, prefix=f", {name}")
        for module in SUITES:
            module.SUITE.run(report, world)
        report.adopt(*kserve("plain", world))
    with World(exchanges.MODELS) as world:
        exchanges.SUITE.run(report, world)
    with World(openapi.MODELS) as world:
        openapi.SUITE.run(report, world)
    repository.run(report)
    well = report.close()
    print(f"in {time.monotonic() - started:.1f} s")
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
