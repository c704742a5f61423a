"""Sees to it that no worker outlives the server, however the server ends.

The server alone holds the other end of standard input, and says there which process groups it starts (`+GROUP`) and which are gone
(`-GROUP`). When that ends, whatever is left is killed: the groups, and whoever left them but still has their token in its environment.
"""

import os
import signal
import sys

PROCESSES = "/proc"
# A process may fork while it is looked for. Each look finds what the one before it missed; more than a few are never needed.
LOOKS = 10


def main():
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    groups = set()
    for line in sys.stdin.buffer:
        group = int(line[1:])
        groups.discard(group)
        if line[:1] == b"+":
            groups.add(group)
    for group in groups:
        kill(os.killpg, group)
    token = b"\0JITNEY_POOL=" + os.environb[b"JITNEY_GUARD"] + b"."
    for _ in range(LOOKS):
        found = marked(token)
        for process in found:
            kill(os.kill, process)
        if not found:
            break


def marked(token):
    """The processes, other than this one, with the token in their environment."""
    found = []
    for name in os.listdir(PROCESSES) if os.path.isdir(PROCESSES) else ():
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        try:
            with open(f"{PROCESSES}/{name}/environ", "rb") as file:
                if token in b"\0" + file.read():
                    found.append(int(name))
        except OSError:
            pass
    return found


def kill(how, target):
    try:
        how(target, signal.SIGKILL)
    except OSError:
        pass


main()
