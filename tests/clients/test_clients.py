"""The public clients of Triton's and KServe's protocols, unchanged, against the built server.

    JITNEY_BIN=target/debug/jitney target/clients/venv/bin/python tests/clients/test_clients.py [WORD]...

With words, only the checks whose names have one of them are run. Every check prints a line.
"""

import importlib
import sys
import time

from faces import open_faces
from suite import Report
from world import World


def main():
    started = time.monotonic()
    report = Report(sys.argv[1:])
    with World() as world:
        with open_faces(world) as faces:
            triton = importlib.import_module("triton")
            for name, face in faces.all.items():
                triton.SUITE.run(report, world, face, prefix=f", {name}")
        for module in ():
            importlib.import_module(module).SUITE.run(report, world)
    for module in ():
        importlib.import_module(module).SUITE.run(report)
    well = report.close()
    print(f"in {time.monotonic() - started:.1f} s")
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
