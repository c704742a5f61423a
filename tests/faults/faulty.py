"""Models that do what their items tell them. What runs is written to the ledger first, so that one can tell afterwards what ran, and
how often: the file that `FAULTS_LEDGER` names.

An item is `{"id": 7}` and its answer `{"v": 7}`; with `"do"` it brings about one of the faults below.
"""

import asyncio
import ctypes
import os
import re
import signal
import sys
import time
from pathlib import Path

GATE = Path(os.environ["FAULTS_LEDGER"]).parent
MIB = 1 << 20

kept = []


def note(*words):
    """Appends a line to the ledger, which is there even if this process is gone a moment later."""
    line = " ".join(map(str, words)) + "\n"
    descriptor = os.open(os.environ["FAULTS_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def fork_a_daemon():
    """Leaves behind a process that has left the group, the session and the standard streams of the worker."""
    if os.fork() == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        if os.fork() == 0:
            note("daemon", os.getpid())
            time.sleep(3600)
        os._exit(0)
    os.wait()


def print_without_end():
    """100 MB in one line, and a short one after it."""
    for _ in range(100):
        sys.stdout.write("x" * 1_000_000)
    print(flush=True)
    print("behind the long line", flush=True)
    print("to standard error", file=sys.stderr)


def wait_at_gate(item):
    """Waits until the file of that name is there."""
    while not (GATE / item["gate"]).exists():
        time.sleep(0.005)


def refuse(item):
    raise ValueError(f"told to raise by {item['id']}")


FAULTS = {
    "kill": lambda item: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda item: os._exit(3),
    "segfault": lambda item: ctypes.string_at(0),
    "raise": refuse,
    "gate": wait_at_gate,
    "sleep": lambda item: time.sleep(item["s"]),
    "hang": lambda item: time.sleep(3600),
    # The engine of regular expressions holds the interpreter's lock, so no other thread of the process runs either.
    "hang in C": lambda item: re.match("(a+)+$", "a" * 60 + "b"),
    "stop": lambda item: os.kill(os.getpid(), signal.SIGSTOP),
    "allocate": lambda item: bytearray(2048 * MIB),
    "leak": lambda item: kept.append(b"x" * (64 * MIB)),
    "daemon": lambda item: fork_a_daemon(),
    "print": lambda item: print_without_end(),
}


class Faulty:
    def predict_batch(self, items):
        for item in items:
            note("ran", item["id"], os.getpid())
        for item in items:
            FAULTS.get(item.get("do"), lambda item: None)(item)
        return self.results(items)

    def results(self, items):
        """As many results as there are items, unless one of them wants it otherwise."""
        results = [{"v": float("nan") if item.get("do") == "nan" else item["id"]} for item in items]
        told = {item.get("do"): at for at, item in enumerate(items)}
        if "none" in told:
            return None
        if "dict" in told:
            return dict(enumerate(results))
        if "drop" in told:
            del results[told["drop"]]
        if "drop the last" in told:
            del results[-1]
        if "add" in told:
            results.insert(told["add"], {"v": -1})
        return results


class Once(Faulty):
    idempotent = False


class OneByOne:
    """Nobody has to find out whose fault it was."""

    def predict(self, item):
        return Faulty().predict_batch([item])[0]


class Waiting:
    async def predict(self, item):
        await asyncio.sleep(item.get("await", 0))
        return Faulty().predict_batch([item])[0]


class Attentive:
    """Works until nobody waits any more."""

    def predict_batch(self, items, context):
        for item in items:
            note("ran", item["id"], os.getpid())
        end = time.monotonic() + max(item.get("s", 0) for item in items)
        while time.monotonic() < end:
            if context.cancelled():
                for item in items:
                    note("noticed", item["id"])
                break
            time.sleep(0.005)
        return [{"v": item["id"]} for item in items]


class Typed:
    """Answers bit by bit what it got; a row that begins with -1 raises."""

    inputs = {"x": "FP32[2]"}
    outputs = {"y": "FP32[2]"}

    def predict_batch(self, x):
        if (x[:, 0] == -1).any():
            raise ValueError("told to raise")
        return x


class Gated(Faulty):
    """Is not loaded before the gate is open."""

    def __init__(self):
        note("loading", os.getpid())
        wait_at_gate({"gate": "open"})


class Fragile(Faulty):
    """Crashes while it is loaded, as long as it is told to."""

    def __init__(self):
        note("loading", os.getpid())
        if (GATE / "broken").exists():
            os._exit(7)


class Stubborn(Faulty):
    """Does not mean to leave."""

    def __init__(self):
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN)

    def close(self):
        note("closing")
        time.sleep(3600)
