"""Models that answer with streams. An item says what its stream does, and `"state"` asks how far the others have come."""

import asyncio
import os
import signal
import time
from pathlib import Path

import numpy


class Diary:
    def __init__(self):
        self.steps = {}
        self.ended = []

    def note(self, name):
        self.steps[name] = self.steps.get(name, 0) + 1

    def end(self, item):
        self.ended.append(item["name"])
        if "mark" in item:
            Path(item["mark"]).touch()

    def state(self):
        return {"steps": self.steps, "ended": self.ended, "pid": os.getpid()}


def misbehave(what, item, context):
    if what == "raise":
        raise ValueError("told to")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "kill when told":
        while not Path(item["file"]).exists():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "loop":
        while True:
            pass
    if what == "until cancelled":
        Path(item["file"]).touch()
        while not context.cancelled():
            time.sleep(0.001)
    if what == "leave":
        raise SystemExit(3)


def value(name, number, item):
    if item.get("do") == "set" and number == item["at"]:
        return {1, 2}
    if "size" in item:
        return "x" * item["size"]
    if "nan" in item:
        return float("nan")
    return [name, number]


class Plain(Diary):
    def stream(self, item, context):
        if item == "state":
            yield self.state()
            return
        name = item["name"]
        try:
            for number in range(item.get("count", 1 << 60)):
                self.note(name)
                if number == item.get("at"):
                    misbehave(item["do"], item, context)
                yield value(name, number, item)
        finally:
            self.end(item)


class Loop(Diary):
    async def stream(self, item, context):
        if item == "state":
            yield self.state()
            return
        name = item["name"]
        try:
            for number in range(item.get("count", 1 << 60)):
                self.note(name)
                if number % 3 == 2:
                    await asyncio.sleep(0)
                if number == item.get("at"):
                    if item["do"] == "wait":
                        await asyncio.get_running_loop().create_future()
                    misbehave(item["do"], item, context)
                yield value(name, number, item)
        finally:
            self.end(item)


class Typed:
    inputs = {"start": "FP32[2]", "count": "INT64[1]"}
    outputs = {"row": "FP32[2]", "text": "BYTES"}
    max_concurrency = 3

    def stream(self, start, count):
        for number in range(int(count[0])):
            if number == 5:
                yield start
            yield {"row": start + numpy.float32(number), "text": str(number)}


class Told:
    """Says what it knows of its caller."""

    async def stream(self, item, context):
        yield [context.id, context.parameters, context.remaining() is not None, context.cancelled()]


class Odd:
    """Streams that are none."""

    def stream(self, item):
        return {"list": [1, 2], "none": None, "number": 7, "stop": iter(())}[item]


class Warm:
    warmup = ["endless", "endless"]

    def __init__(self):
        self.closed = 0

    def stream(self, item):
        try:
            while item == "endless":
                yield 1
            yield self.closed
        finally:
            self.closed += 1


class Cold:
    warmup = [1]

    async def stream(self, item):
        yield 1
        raise KeyError("lost")


class Clinging:
    """A generator that does not want to end."""

    def stream(self, item):
        while True:
            try:
                yield 1
            except GeneratorExit:
                yield 2


class Reluctant(Diary):
    """Has something yet to give when it is told to end."""

    async def stream(self, item):
        if item == "state":
            yield self.state()
            return
        try:
            yield 1
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            while True:
                yield "late"
        finally:
            self.end(item)


class Closing:
    async def close(self):
        print("closed")

    def stream(self, item):
        try:
            yield from range(item)
        finally:
            print("ended")
