"""Reads +GROUP and -GROUP lines; when they end, kills those groups and all processes that bear the pool's token."""

from __future__ import annotations

import os
import signal
import sys

groups: set[int] = set()
for line in sys.stdin:
    number = int(line[1:])
    if line[0] == "+":
        groups.add(number)
    else:
        groups.discard(number)
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
mark = b"JITNEY_POOL=" + os.environ["JITNEY_GUARD"].encode() + b"."
for entry in os.listdir("/proc"):
    try:
        with open(f"/proc/{entry}/environ", "rb") as file:
            if any(variable.startswith(mark) for variable in file.read().split(b"\0")):
                os.kill(int(entry), signal.SIGKILL)
    except (OSError, ValueError):
        pass
