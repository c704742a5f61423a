"""Reads +GROUP and -GROUP lines; when they end, kills those groups and all processes that bear the pool's token."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

groups: set[int] = set()
for line in sys.stdin:
    number = int(line[1:])
    if line[0] == "+":
        groups.add(number)
    else:
        groups.discard(number)
for group in groups:
    with contextlib.suppress(OSError):
        os.killpg(group, signal.SIGKILL)
mark = b"JITNEY_POOL=" + os.environ["JITNEY_GUARD"].encode() + b"."
# A process in the middle of an exec has no environment for a moment.
for _ in range(10):
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            variables = Path(entry, "environ").read_bytes().split(b"\0")
            if any(variable.startswith(mark) for variable in variables):
                os.kill(int(entry.name), signal.SIGKILL)
    time.sleep(0.02)
