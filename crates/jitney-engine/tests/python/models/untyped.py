"""Untyped models: what they are given is in their names."""

import asyncio
import ctypes
import os
import re
import signal
import sys
import time


class Batch:
    def predict_batch(self, items):
        return [sum(item["features"]) for item in items]


class Item:
    def predict(self, item):
        return 12 / item


class Async:
    def __init__(self):
        self.running = 0

    async def predict(self, item):
        self.running += 1
        await asyncio.sleep(0.01)
        return self.running


class Close:
    def predict(self, item):
        return item

    def close(self):
        print("closed")


class Once:
    idempotent = False

    def predict(self, item):
        return item


class Context:
    """A batch goes on until nobody waits for it, and says so."""

    def predict_batch(self, items, context):
        if items[0] == "told":
            return [[context.id, context.parameters, context.remaining()] for _ in items]
        while not context.cancelled():
            time.sleep(0.001)
        print("nobody waits")
        return items


class Mischief:
    """Does what an item says."""

    def predict_batch(self, items):
        return [getattr(self, item["do"])(items) if isinstance(item, dict) else item for item in items]

    def fail(self, items):
        raise ValueError("no \x1b[31m")

    def leave(self, items):
        sys.exit(3)

    def end(self, items):
        os._exit(3)

    def crash(self, items):
        ctypes.string_at(0)

    def kill(self, items):
        os.kill(os.getpid(), signal.SIGKILL)

    def stop(self, items):
        os.kill(os.getpid(), signal.SIGSTOP)

    def loop(self, items):
        while True:
            pass

    def hold(self, items):
        """Never ends, and never gives the interpreter's lock back."""
        re.match(r"(a+)+$", "a" * 64 + "b")

    def print(self, items):
        for _ in range(100):
            sys.stdout.write("x" * (1 << 20))
        return "printed"

    def nan(self, items):
        return [float("nan"), "NaN"]

    def pid(self, items):
        return os.getpid()

    def set(self, items):
        return {1, 2}


class Wrong:
    """Answers wrongly as a whole, as the first item says."""

    def predict_batch(self, items):
        answers = {
            "short": items[:-1],
            "middle": items[:1] + items[2:],
            "long": items * 2,
            "none": None,
            "dict": dict(enumerate(items)),
            "text": "x" * len(items),
        }
        return answers.get(items[0], items)


class Slow:
    def __init__(self):
        time.sleep(3600)

    def predict(self, item):
        return item


class Abrupt:
    def __init__(self):
        os._exit(7)

    def predict(self, item):
        return item


class Hungry:
    def predict(self, item):
        return len(bytearray(item))


class Printed:
    def predict(self, item):
        print("to stdout")
        print("to stderr", file=sys.stderr)
        return item
