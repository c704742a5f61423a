"""One worker process: loads a model's class and answers the server's runs until it is told to go.

The server starts it as `python -c BOOT`, sends this source down the channel, and speaks frames from then on: a header of 32 bytes, a
head (`meta`) and a payload. A payload beyond 32 KiB does not travel in the frame: each side has a region of shared memory for every
run in flight, writes there, and sends the other its descriptor once. The server never runs more at a time than it has slots for.

A model with `stream` answers each run with any number of results, and works on many runs at a time. The server gives each credit for the
results for which its reader has room; what has none is not stepped, so that a slow reader pauses its own generator alone.

It needs the standard library alone, and numpy where the model is typed. Whatever the model does with standard input and output, with
exceptions or with threads, a run is answered or the process ends: no answer is lost without the server knowing.
"""

import faulthandler
import fcntl
import json
import mmap
import os
import resource
import socket
import struct
import sys
import time
from collections import deque
from importlib.util import module_from_spec, spec_from_file_location
from itertools import islice

PROTOCOL = 1

HEADER = struct.Struct("<IBBHQQQ")  # length of the body, kind, flags, slot, id, a, b
HELLO, RUN, CLOSE, CREDIT, STOP = 1, 2, 3, 4, 5
READY, FAILED, DONE, CHUNK, END = 65, 66, 67, 68, 69
DESCRIPTOR, REGION = 1, 2
BODY_MAX = 1 << 20
INLINE_MAX = 32 << 10
ALIGNMENT = 64
SLOT_SIZE = 512

# A stream begins with this credit. A result costs one, and one more for each of these bytes, but never more than all of it.
ROOM = 16
COST_BYTES = 64 << 10
# The streams' part of the control region: since when which stream has been at work, then for each slot the stream that was left and the
# one that has begun.
STEP = struct.Struct("<QQ")
NUMBER = struct.Struct("<Q")
# How many streams a worker may be given at a time, where the model does not say so.
STREAMS_IN_TURN, STREAMS_ON_LOOP = 64, 1024
# How many results of a stream are computed to warm up.
WARMUP_RESULTS = 4
RECEIVE_AT_ONCE = 256 << 10
# How often within its limit a stream is looked at.
SWEEPS = 8

GOOD, ALL_FAILED, SOME_FAILED = 0, 1, 2
RAISED, MISMATCH, INVALID, LIMIT = "raised", "mismatch", "invalid", "limit"
ERROR_MAX = 2_000
TRACEBACK_MAX = 8_000
# What the errors of one answer share, so that their JSON fits a frame even where every byte of them is escaped.
ERRORS_MAX = 150_000

# Models that close all low descriptors, as daemons do, do not hit the channel.
HIGH_DESCRIPTOR = 200

# Bits of `code.co_flags`. The module `inspect` names them, but importing it costs more than the rest of this file.
HAS_ARGS, HAS_KEYWORDS, IS_GENERATOR, IS_COROUTINE, IS_ASYNC_GENERATOR = 0x04, 0x08, 0x20, 0x80, 0x200

DTYPES = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BYTES": "O",
}


def main():
    channel = Channel()
    hello, control = channel.hello()
    settle(hello)
    try:
        model = Model(hello, control)
        in_turn, on_loop = (StreamsInTurn, StreamsOnLoop) if model.streams else (InTurn, OnLoop)
        driver = (on_loop if model.is_async else in_turn)(model, channel)
        driver.open()
    except Unservable as error:
        channel.send(FAILED, meta=as_json(error.report()))
        sys.exit(1)
    channel.send(READY, meta=as_json(model.greeting()))
    driver.serve()


def settle(hello):
    """Makes the process a good neighbour: output leaves it line by line, a crash says where it happened but leaves no core with people's
    data in it, and when memory runs out the system ends this process before the server."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if hello["memory"] is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (hello["memory"], hello["memory"]))
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")
    except OSError:
        pass


# --- Drivers: when runs are run ---


class InTurn:
    """Runs plain methods, one after another."""

    def __init__(self, model, channel):
        self.model = model
        self.channel = channel

    def open(self):
        self.model.create()
        for run in self.model.warmup_runs():
            self.model.check_warmup(run, self.answer(run))

    def serve(self):
        run = self.channel.next_run()
        while run is not None:
            self.channel.done(run, self.answer(run) if self.model.is_awaited(run) else self.model.forgo())
            run = self.channel.next_run()
        self.model.close()

    def answer(self, run):
        try:
            calls = self.model.calls(run)
        except Wrong as error:
            return self.model.codec.refuse(Failure(error))
        return self.model.encode(run, [self.call(*call) for call in calls])

    def call(self, arguments, keywords):
        try:
            return self.model.method(*arguments, **keywords)
        except BaseException as error:
            return Failure(error)


class OnLoop:
    """Runs coroutines on an event loop: the calls of one run overlap, and so do those of runs in flight. Answers leave in the order in
    which their runs came."""

    def __init__(self, model, channel):
        import asyncio

        self.asyncio = asyncio
        self.model = model
        self.channel = channel
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.last = None
        self.closed = False

    def open(self):
        self.loop.run_until_complete(self.begin())

    async def begin(self):
        """Creates the model on the running loop, where clients and locks of `asyncio` want to be made."""
        self.gate = self.asyncio.Semaphore(self.model.max_concurrency or sys.maxsize)
        self.model.create()
        for run in self.model.warmup_runs():
            self.model.check_warmup(run, await self.answer(run))

    def serve(self):
        self.loop.add_reader(self.channel.fileno(), self.on_frame)
        while not self.closed:
            try:
                self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                # A task that the model started wants to end the program. It is not the model's to end.
                complain(f"ignored in a task: {error_text(error)}")

    def on_frame(self):
        run = self.channel.next_run()
        if run is None:
            self.loop.remove_reader(self.channel.fileno())
        work = self.end(self.last) if run is None else self.handle(run, self.last)
        self.last = self.loop.create_task(work)

    async def handle(self, run, before):
        try:
            reply = await self.answer(run) if self.model.is_awaited(run) else self.model.forgo()
            if before is not None:
                await before
            self.channel.done(run, reply)
        except BaseException as error:
            # A task's exception would be kept until somebody asks, and the server would wait for an answer that never comes.
            die(f"cannot answer: {error_text(error)}")

    async def end(self, before):
        try:
            if before is not None:
                await before
            closing = self.model.close()
            if hasattr(closing, "__await__"):
                await closing
        finally:
            self.closed = True
            self.loop.stop()

    async def answer(self, run):
        try:
            calls = self.model.calls(run)
        except Wrong as error:
            return self.model.codec.refuse(Failure(error))
        results = await self.asyncio.gather(*[self.call(*call) for call in calls])
        return self.model.encode(run, results)

    async def call(self, arguments, keywords):
        try:
            async with self.gate:
                result = self.model.method(*arguments, **keywords)
                return await result if hasattr(result, "__await__") else result
        except BaseException as error:
            return Failure(error)


class Stream:
    """A run that is answered with any number of results."""

    def __init__(self, run, has_left, now):
        self.run = run
        self.has_left = has_left
        self.results = None
        self.credit = ROOM
        self.stopped = False
        self.failure = None
        # On a loop: the task, what it waits for when it has no credit, and when it last gave something or could.
        self.task = None
        self.room = None
        self.since = now


class Streams:
    """What both ways to step streams have in common."""

    def __init__(self, model, channel):
        self.model = model
        self.channel = channel
        self.control = model.control
        self.streams = {}
        self.closing = False

    def heed(self, frame):
        kind, slot, id, a, b, meta, payload = frame
        if kind == RUN:
            run = StreamRun(slot, id, b, meta, payload, self.model.streams_at)
            self.streams[id] = stream = Stream(run, run.left(self.control, 0, 1), time.monotonic())
            self.begin(stream)
        elif kind in (CREDIT, STOP):
            stream = self.streams.get(id)
            # It may have ended while the server said so.
            if stream is not None and not stream.stopped:
                self.credited(stream, a) if kind == CREDIT else self.stop(stream)
        elif kind == CLOSE:
            self.closing = True
        else:
            die(f"the server sent a frame of kind {kind}")

    def mark(self, stream):
        """Notes which stream is at work, for the server to know should this process die or hang."""
        STEP.pack_into(self.control, self.model.streams_at, time.monotonic_ns(), stream.run.id)

    def unmark(self):
        NUMBER.pack_into(self.control, self.model.streams_at + 8, 0)

    def call(self, stream):
        """Calls the method; what it gives is to be iterated over."""
        run = stream.run
        NUMBER.pack_into(self.control, run.cell + 8, run.id)
        ((arguments, keywords),) = self.model.calls(run)
        return self.model.method(*arguments, **keywords)

    def give(self, stream, result):
        reply = self.model.one(result)
        size = self.channel.push(CHUNK, stream.run.slot, stream.run.id, reply.head, reply.payload)
        stream.credit -= min(ROOM, 1 + size // COST_BYTES)

    def end(self, stream, failure=None):
        """Says that it has ended, once."""
        if self.streams.pop(stream.run.id, None) is None:
            return
        meta = b"" if failure is None else self.model.codec.refuse(failure).meta()
        self.channel.push(END, stream.run.slot, stream.run.id, meta)


class StreamsInTurn(Streams):
    """Steps plain generators, one after another: those that have credit, in a circle."""

    def __init__(self, model, channel):
        super().__init__(model, channel)
        self.ready = deque()

    def open(self):
        self.model.create()
        for run in self.model.warmup_runs():
            self.model.check_warmup(run, self.model.tried(run, self.attempt))

    def attempt(self, arguments, keywords):
        results = iterator(self.model.method(*arguments, **keywords))
        for result in islice(results, WARMUP_RESULTS):
            self.model.one(result)
        close(results)

    def serve(self):
        while not self.closing:
            # The next step may take long: what is there goes out before it, and who has left is not waited upon.
            self.channel.flush()
            for frame in self.channel.frames(wait=not self.ready):
                self.heed(frame)
            if self.ready:
                self.step(self.ready.popleft())
        for stream in list(self.streams.values()):
            self.stop(stream)
        self.channel.flush()
        self.model.close()

    def begin(self, stream):
        self.ready.append(stream)

    def credited(self, stream, credit):
        stream.credit += credit
        # One that has been waiting for it is not in the circle.
        if 0 < stream.credit <= credit:
            self.ready.append(stream)

    def stop(self, stream):
        stream.stopped = True
        self.mark(stream)
        try:
            close(stream.results)
        except BaseException as error:
            complain(f"ending a stream raised {error_text(error)}")
        self.unmark()
        self.end(stream)

    def step(self, stream):
        if stream.stopped:
            return
        self.mark(stream)
        try:
            if stream.results is None:
                stream.results = self.called(stream)
            self.give(stream, next(stream.results))
        except StopIteration:
            self.end(stream)
        except BaseException as error:
            self.end(stream, Failure(error))
            self.abandon(stream)
        else:
            if stream.credit > 0:
                self.ready.append(stream)
        self.unmark()

    def called(self, stream):
        try:
            return iterator(self.call(stream))
        except StopIteration as error:
            raise RuntimeError("stream raised StopIteration") from error

    def abandon(self, stream):
        """Closes a generator whose result could not be sent. One that raised has ended already."""
        try:
            close(stream.results)
        except BaseException as error:
            complain(f"ending a stream raised {error_text(error)}")


class StreamsOnLoop(Streams):
    """Runs asynchronous generators on an event loop, each in a task of its own. What they give in one turn of the loop goes out together."""

    def __init__(self, model, channel):
        super().__init__(model, channel)
        import asyncio

        self.asyncio = asyncio
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        # Those of streams that go on, and of those that do not want to end.
        self.tasks = set()
        self.turn = Turn()
        self.flushing = False
        self.sweeping = False
        self.ended = False

    def open(self):
        self.loop.run_until_complete(self.create())

    async def create(self):
        """Creates the model on the running loop, where clients and locks of `asyncio` want to be made."""
        self.model.create()
        for run in self.model.warmup_runs():
            failures = []
            for at, call in enumerate(self.model.calls(run)):
                try:
                    await self.attempt(*call)
                except BaseException as error:
                    failures.append((at, Failure(error)))
            self.model.check_warmup(run, Reply(b"", (), failures))

    async def attempt(self, arguments, keywords):
        results = self.model.method(*arguments, **keywords)
        if hasattr(results, "__await__"):
            results = await results
        if not hasattr(results, "__aiter__"):
            for result in islice(iterator(results), WARMUP_RESULTS):
                self.model.one(result)
            return close(results)
        left = WARMUP_RESULTS
        try:
            async for result in results:
                self.model.one(result)
                left -= 1
                if not left:
                    break
        finally:
            await aclose(results)

    def serve(self):
        self.loop.add_reader(self.channel.fileno(), self.on_frames)
        while not self.ended:
            try:
                self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                # A task that the model started wants to end the program. It is not the model's to end.
                complain(f"ignored in a task: {error_text(error)}")

    def on_frames(self):
        for frame in self.channel.frames(wait=False):
            self.heed(frame)
        if self.closing:
            self.loop.remove_reader(self.channel.fileno())
            self.last = self.loop.create_task(self.leave())

    async def leave(self):
        try:
            for stream in self.streams.values():
                self.stop(stream)
            if self.tasks:
                await self.asyncio.wait(self.tasks)
            closing = self.model.close()
            if hasattr(closing, "__await__"):
                await closing
        finally:
            self.channel.flush()
            self.ended = True
            self.loop.stop()

    def begin(self, stream):
        stream.task = self.loop.create_task(Stepped(self, stream, self.flow(stream)))
        stream.task.add_done_callback(lambda _: self.finish(stream))
        self.tasks.add(stream.task)
        if not self.sweeping:
            self.sweeping = True
            self.loop.call_later(stream.run.limit / SWEEPS, self.sweep)

    def credited(self, stream, credit):
        if stream.credit < 1 and stream.credit + credit > 0:
            stream.since = time.monotonic()
        stream.credit += credit
        if stream.room is not None and stream.credit > 0 and not stream.room.done():
            stream.room.set_result(None)

    def stop(self, stream):
        stream.stopped = True
        stream.task.cancel()

    async def flow(self, stream):
        try:
            results = self.call(stream)
            if hasattr(results, "__await__"):
                results = await results
            if hasattr(results, "__aiter__"):
                await self.give_all(stream, results)
            else:
                await self.give_plain(stream, iterator(results))
        except BaseException as error:
            # A task's exception would be kept until somebody asks.
            stream.failure = Failure(error)

    async def give_all(self, stream, results):
        try:
            async for result in results:
                if not await self.pass_on(stream, result):
                    break
        finally:
            await aclose(results)

    async def give_plain(self, stream, results):
        try:
            for result in results:
                if not await self.pass_on(stream, result):
                    break
        finally:
            close(results)

    async def pass_on(self, stream, result):
        """Gives a result and waits until there is room for another; answers whether it is to be computed."""
        # A generator may catch that it is cancelled and give something yet. Its stream may have ended by then, and gets no more credit.
        if stream.stopped:
            return False
        self.give(stream, result)
        # The next step may block the loop: the result goes out before.
        await (self.turn if stream.credit > 0 else self.wait_for_room(stream))
        return not (stream.stopped or stream.has_left())

    async def wait_for_room(self, stream):
        stream.room = self.loop.create_future()
        await stream.room
        stream.room = None

    def give(self, stream, result):
        super().give(stream, result)
        stream.since = time.monotonic()
        self.flush_soon()

    def finish(self, stream):
        self.tasks.discard(stream.task)
        # What a stream raises that was told to end is nobody's business but the model's.
        if stream.stopped and stream.failure is not None and not stream.failure.is_cancelled:
            complain(f"ending a stream raised {stream.failure.error}")
        self.end(stream, None if stream.stopped else stream.failure)
        self.flush_soon()

    def flush_soon(self):
        if not self.flushing:
            self.flushing = True
            self.loop.call_soon(self.flush)

    def flush(self):
        self.flushing = False
        self.channel.flush()

    def sweep(self):
        """Ends those that have given nothing for too long though there was room for it. The others need not suffer for it: they go on."""
        now, least = time.monotonic(), None
        for stream in list(self.streams.values()):
            limit = stream.run.limit
            least = limit if least is None else min(limit, least)
            if stream.credit > 0 and not stream.stopped and now - stream.since > limit:
                self.end(stream, Failure(Wrong(LIMIT, f"no result within {limit:g} s")))
                self.flush_soon()
                self.stop(stream)
        self.sweeping = least is not None
        if least is not None:
            self.loop.call_later(least / SWEEPS, self.sweep)


class Stepped:
    """A coroutine that notes before each of its steps which stream is at work."""

    def __init__(self, streams, stream, coroutine):
        self.streams = streams
        self.stream = stream
        self.coroutine = coroutine

    def send(self, value):
        self.streams.mark(self.stream)
        try:
            return self.coroutine.send(value)
        finally:
            self.streams.unmark()

    def throw(self, *error):
        self.streams.mark(self.stream)
        try:
            return self.coroutine.throw(*error)
        finally:
            self.streams.unmark()

    def close(self):
        return self.coroutine.close()

    def __await__(self):
        return self

    def __getattr__(self, name):
        # For those who look into tasks.
        return getattr(self.coroutine, name)


class Turn:
    """What is awaited to let the loop have a turn."""

    def __await__(self):
        yield


def iterator(results):
    if hasattr(results, "__iter__"):
        return iter(results)
    raise TypeError(f"expected results to iterate over, such as those of a generator, got {kind_of(results)}")


def close(results):
    """Ends a generator at the point where it stands."""
    if hasattr(results, "close"):
        results.close()


async def aclose(results):
    if hasattr(results, "aclose"):
        await results.aclose()


# --- The model: the user's class, and how its methods are called ---


class Model:
    """The class that the user wrote, checked, and then its one instance."""

    def __init__(self, hello, control):
        self.control = control
        self.streams_at = hello["streams_at"]
        self.max_batch = hello["max_batch"]
        self.payload_max = hello["payload_max"]
        self.source = Source(hello["file"], hello["class"])
        self.cls = self.source.load()
        self.inputs = self.signature("inputs")
        self.outputs = self.signature("outputs")
        if (self.inputs is None) != (self.outputs is None):
            one, other = ("outputs", "inputs") if self.inputs is None else ("inputs", "outputs")
            raise self.source.wrong(f"it has {one} but no {other}: a typed model has both, an untyped one neither", one)
        self.idempotent = self.attribute("idempotent", True, "True or False", lambda value: isinstance(value, bool))
        self.max_concurrency = hello["max_concurrency"] or self.attribute(
            "max_concurrency", None, "a whole number from 1", lambda value: type(value) is int and value >= 1
        )
        self.codec = Json() if self.inputs is None else Arrays(self.inputs, self.outputs, self.source)
        self.find_method()
        self.check_init()

    def attribute(self, name, default, expected, fits):
        value = getattr(self.cls, name, default)
        if value is default or fits(value):
            return value
        raise self.source.wrong(f"{name} must be {expected}, not {kind_of(value)}", name)

    def signature(self, name):
        """The tensors of one side, in order."""
        tensors = self.attribute(
            name, None, 'a dict such as {"pixels": "FP32[64]"}', lambda value: isinstance(value, dict)
        )
        if tensors is None:
            return None
        if not tensors:
            raise self.source.wrong(f"{name} is empty: name at least one tensor, or leave inputs and outputs out", name)
        try:
            return [TensorSpec(name[:-1], *tensor) for tensor in tensors.items()]
        except ValueError as error:
            raise self.source.wrong(f"{name}: {error}", name) from None

    def find_method(self):
        names = [name for name in ("predict_batch", "predict", "stream") if callable(getattr(self.cls, name, None))]
        if not names:
            raise self.source.wrong("it has no method predict_batch, predict or stream")
        self.name = names[0]
        self.batched = self.name == "predict_batch"
        self.streams = self.name == "stream"
        parameters = Parameters(self.cls, self.name)
        if parameters.flags & (IS_GENERATOR | IS_ASYNC_GENERATOR) and self.name == "predict":
            raise self.source.wrong("predict has one result for an item, but it yields: call it stream", "predict")
        asynchronous = IS_COROUTINE | IS_ASYNC_GENERATOR
        self.is_async = bool((parameters.flags | Parameters(self.cls, "close").flags) & asynchronous)
        if self.streams and self.max_concurrency is None:
            self.max_concurrency = STREAMS_ON_LOOP if self.is_async else STREAMS_IN_TURN
        names = ["items" if self.batched else "item"] if self.inputs is None else [spec.name for spec in self.inputs]
        self.context = "context" not in names and "context" in parameters.positional + parameters.keyword_only
        try:
            self.binding = parameters.bind(names, as_dict=self.inputs is not None and not self.batched)
        except ValueError as error:
            raise self.source.wrong(f"{self.name} {error}", self.name) from None

    def check_init(self):
        parameters = Parameters(self.cls, "__init__")
        if parameters.flags & IS_COROUTINE:
            raise self.source.wrong("__init__ cannot be async: load in __init__, and await in predict", "__init__")
        if parameters.required:
            needs = ", ".join(parameters.required)
            raise self.source.wrong(
                f"__init__ is called without arguments, but it needs {needs}: give defaults", "__init__"
            )

    def create(self):
        try:
            self.instance = self.cls()
            self.method = getattr(self.instance, self.name)
        except BaseException as error:
            raise self.source.raised("__init__ raised", error) from None
        self.warmup = getattr(self.instance, "warmup", None)

    def close(self):
        close = getattr(self.instance, "close", None)
        return close() if callable(close) else None

    def greeting(self):
        return {
            "protocol": PROTOCOL,
            "python": "{}.{}.{}".format(*sys.version_info[:3]),
            "numpy": self.codec.numpy_version,
            "inputs": None if self.inputs is None else {spec.name: str(spec) for spec in self.inputs},
            "outputs": None if self.outputs is None else {spec.name: str(spec) for spec in self.outputs},
            "mode": {"predict_batch": "batch", "stream": "stream"}.get(self.name)
            or ("async" if self.is_async else "item"),
            "context": self.context,
            "idempotent": self.idempotent,
            "max_concurrency": self.max_concurrency,
        }

    def warmup_runs(self):
        """What is run before the model is ready: the items it names, else a row of zeros where it is typed."""
        if self.warmup is None:
            return [Warmup(values, asked=False) for values in self.codec.zeros()]
        if not isinstance(self.warmup, (list, tuple)):
            raise self.source.wrong(f"warmup must be a list of items, not {kind_of(self.warmup)}", "warmup")
        starts = range(0, len(self.warmup), self.max_batch)
        try:
            return [Warmup(self.codec.gather(self.warmup[start : start + self.max_batch])) for start in starts]
        except Wrong as error:
            raise self.source.wrong(f"warmup: {error}", "warmup") from None

    def check_warmup(self, run, reply):
        for _, failure in reply.failures:
            if run.asked:
                raise Unservable(
                    f"the warm-up failed: {failure.error}", self.source.where(self.name), failure.traceback
                )
            complain(f"a row of zeros failed, which may be as it should: {failure.error}")

    def tried(self, run, attempt):
        """What comes of calling the method for each row, to warm up."""
        failures = []
        for at, call in enumerate(self.calls(run)):
            try:
                attempt(*call)
            except BaseException as error:
                failures.append((at, Failure(error)))
        return Reply(b"", (), failures)

    def calls(self, run):
        """What the method is called with: once for a batch, else once for each row."""
        values = run.values(self.codec)
        calls = list(map(self.binding, [values] if self.batched else zip(*values)))
        if self.context:
            for call, context in zip(calls, run.contexts(self)):
                call[1]["context"] = context
        return calls

    def is_awaited(self, run):
        """Whether anybody still waits for the run, which may have lain in the channel for as long as the one before it took."""
        return not run.left(self.control, 0, run.requests)()

    def forgo(self):
        """The answer to a run that nobody waits for."""
        return self.codec.refuse(Failure(Wrong(RAISED, "nobody waits for it any more")))

    def encode(self, run, results):
        """The answer to a run. Whatever keeps it from being said is the run's failure, not the end of the process."""
        try:
            return self.fitting(self.encoded(run, results))
        except BaseException as error:
            return self.codec.refuse(Failure(error))

    def encoded(self, run, results):
        if not self.batched:
            return self.codec.encode_rows(run, results)
        if type(results[0]) is Failure:
            return self.codec.refuse(results[0])
        return self.codec.encode_batch(run, results[0])

    def one(self, result):
        """One result of a stream, as the answer to one row."""
        return self.fitting(self.codec.one(result))

    def fitting(self, reply):
        """The reply, if it is not longer than the server takes."""
        size = sum(map(len, reply.payload))
        if size > self.payload_max:
            raise Wrong(MISMATCH, f"expected an answer of at most {self.payload_max} bytes, got {size}")
        return reply


class Source:
    """The file with the class, and where in it things are."""

    def __init__(self, path, class_name):
        self.path = os.path.abspath(path)
        self.class_name = class_name

    def load(self):
        """The class. Its module has its own name, as if it had been imported from its folder, so that what was pickled with it can be
        unpickled; it is compiled from source each time, since a cached one is told from an edited one by whole seconds alone."""
        folder, file = os.path.split(self.path)
        name = os.path.splitext(file)[0]
        sys.path[:1] = [folder, *(entry for entry in sys.path[:1] if entry)]
        if name in sys.modules:
            raise Unservable(f'a model cannot be called "{file}": Python has a module of that name', self.path)
        spec = spec_from_file_location(name, self.path)
        try:
            with open(self.path, "rb") as source:
                code = compile(source.read(), self.path, "exec", dont_inherit=True)
        except OSError as error:
            raise Unservable(f"the file cannot be read: {error.strerror}", self.path) from None
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None)
            raise Unservable(
                f"it is not Python: {error_text(error)}", f"{self.path}:{line}" if line else self.path
            ) from None
        module = module_from_spec(spec)
        sys.modules[name] = module
        try:
            exec(code, module.__dict__)
        except BaseException as error:
            raise self.raised("importing it raised", error) from None
        return self.class_in(module)

    def class_in(self, module):
        cls = getattr(module, self.class_name, None)
        if isinstance(cls, type):
            return cls
        if cls is not None:
            raise self.wrong(f'"{self.class_name}" must be a class, not {kind_of(cls)}')
        own = [
            name
            for name, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == module.__name__
        ]
        there = f"there is {', '.join(own)}" if own else "there is none at all"
        raise Unservable(f'there is no class "{self.class_name}": {there}', self.path)

    def wrong(self, text, member=None):
        """The error of a class that breaks the contract, at that member of it."""
        return Unservable(f'class "{self.class_name}": {text}', self.where(member))

    def raised(self, what, error):
        """The error of code of the user's that raised, at the last line of this file that was running."""
        lines = []
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self.path:
                lines.append(trace.tb_lineno)
            trace = trace.tb_next
        where = f"{self.path}:{lines[-1]}" if lines else self.path
        return Unservable(f"{what} {error_text(error)}", where, traceback_text(error))

    def where(self, member=None):
        """File and line of the class, or of a member of it where it is written in this file."""
        import ast

        with open(self.path, "rb") as source:
            body = ast.parse(source.read()).body
        found = [node for node in body if getattr(node, "name", None) == self.class_name]
        if found and member is not None:
            members = [node for node in getattr(found[-1], "body", []) if member in names_bound_by(node)]
            found = members or found
        return f"{self.path}:{found[-1].lineno}" if found else self.path


def names_bound_by(node):
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    return {getattr(node, "name", None), *(getattr(target, "id", None) for target in targets)}


class Parameters:
    """What a method of a class takes beside `self`."""

    def __init__(self, cls, name):
        function = next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)
        skip = 0 if isinstance(function, staticmethod) else 1
        code, self.flags = None, 0
        for inner in unwrapped(getattr(function, "__func__", function)):
            function, code = inner, getattr(inner, "__code__", None)
            self.flags |= code.co_flags if code else 0
        # What is not written in Python does not say what it takes.
        self.known = code is not None
        self.positional, self.keyword_only, self.required = [], [], []
        if code is None or function is None:
            return
        count, names = code.co_argcount, code.co_varnames
        self.positional = list(names[skip:count])
        self.position_only = names[: code.co_posonlyargcount]
        self.keyword_only = list(names[count : count + code.co_kwonlyargcount])
        needed = self.positional[: max(0, len(self.positional) - len(function.__defaults__ or ()))]
        self.required = needed + [name for name in self.keyword_only if name not in (function.__kwdefaults__ or {})]

    def takes(self, name):
        """Whether a parameter has that name, and can be given by it."""
        return name in self.positional + self.keyword_only and name not in self.position_only

    def bind(self, inputs, as_dict):
        """A function from values in the order of `inputs` to positional and keyword arguments: by name where the parameters have the
        names of the inputs, else in order. `as_dict` lets one parameter take several inputs, as a dict."""
        if not self.known:
            return lambda values: (values, {})
        positional = [name for name in self.positional if name != "context" or name in inputs]
        required = [name for name in self.required if name != "context" or name in inputs]
        named = [name for name in inputs if self.takes(name)]
        if (named == inputs or self.flags & HAS_KEYWORDS) and set(required) <= set(inputs):
            return lambda values: ((), dict(zip(inputs, values)))
        if (not named or positional[: len(inputs)] == inputs) and set(required) <= set(positional):
            if len(required) <= len(inputs) and (len(inputs) <= len(positional) or self.flags & HAS_ARGS):
                return lambda values: (values, {})
            if as_dict and positional and len(required) <= 1:
                return lambda values: ((dict(zip(inputs, values)),), {})
        raise ValueError(f"takes {self}, but it is called with ({', '.join(inputs)})")

    def __str__(self):
        return f"({', '.join(self.positional + self.keyword_only)})"


def unwrapped(function):
    """A function, what it wraps, what that wraps, and so on."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


class Context:
    """What a method knows of those who wait for it. For a batch, `id` and `parameters` are lists with an entry for each request, the
    deadline is the last of them, and the run is cancelled when nobody waits any more."""

    def __init__(self, id, parameters, deadline, left):
        self.id = id
        self.parameters = parameters
        self.deadline = deadline
        self._left = left

    def remaining(self):
        """Seconds until the deadline, never below zero; None where there is no deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def cancelled(self):
        """Whether nobody waits for the answer any more."""
        return self._left()


# --- Codecs: from frames to values and back ---


class Json:
    """Of an untyped model: a run's payload is one JSON array of items, and so is the answer's of results."""

    numpy_version = None
    heads_size = 0

    def __init__(self):
        self.parse = json.JSONDecoder().decode
        self.dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=jsonable).encode

    def decode(self, run):
        try:
            items = self.parse(str(run.payload, "utf-8"))
        except (ValueError, RecursionError) as error:
            raise Wrong(INVALID, f"Python cannot read the item: {error_text(error)}") from None
        if type(items) is not list or len(items) != run.rows:
            die(f"the payload is not an array of {run.rows} items")
        return (items,)

    def gather(self, items):
        return (list(items),)

    def zeros(self):
        return []

    def one(self, result):
        if isinstance(result, BaseException):
            raise result
        return Reply(bytes((GOOD,)), [b"[%b]" % self.dump(result).encode()])

    def encode_batch(self, run, result):
        return self.encode_rows(run, rows_of(result, run.rows))

    def encode_rows(self, run, results):
        try:
            text = self.dump(results).encode()
        except BaseException:
            return self.encode_one_by_one(run, results)
        return Reply(bytes((GOOD,)), [text])

    def encode_one_by_one(self, run, results):
        texts = [self.encode_one(result) for result in results]
        good, failures = run.split(texts)
        return Reply(bytes((SOME_FAILED,)), [b"[" + b",".join(good) + b"]"], failures)

    def encode_one(self, result):
        if isinstance(result, Failure):
            return result
        try:
            if isinstance(result, BaseException):
                raise result
            return self.dump(result).encode()
        except BaseException as error:
            return Failure(error)

    def refuse(self, failure):
        return Reply(bytes((ALL_FAILED,)), [], [(None, failure)])


class Arrays:
    """Of a typed model: a run's payload are the arrays of all rows, and so is the answer's."""

    def __init__(self, inputs, outputs, source):
        try:
            import numpy
        except ImportError as error:
            text = f"it is typed, and typed models need numpy: {error_text(error)} (in {sys.executable})"
            raise source.wrong(text, "inputs") from None
        self.numpy = numpy
        self.numpy_version = numpy.__version__
        self.inputs = inputs
        self.outputs = outputs
        self.heads_size = sum(spec.head.size for spec in inputs)
        for spec in inputs + outputs:
            spec.dtype = numpy.dtype(DTYPES[spec.datatype])

    def decode(self, run):
        values, at, start = [], run.heads_at, 0
        for spec in self.inputs:
            ndim, *dims, size = spec.head.unpack_from(run.meta, at)
            shape = (run.rows, *dims)
            if spec.datatype == "BYTES":
                value = self.texts(run.payload[start : start + size], shape)
            else:
                value = self.numpy.ndarray(shape, spec.dtype, run.payload, start)
            if ndim != len(spec.shape) or (value.nbytes != size and spec.datatype != "BYTES"):
                die(f"the bytes of {spec.name} do not fit its shape")
            values.append(value)
            at += spec.head.size
            start += size + -size % ALIGNMENT
        return values

    def gather(self, items):
        """Items as they would come in a run: objects by input name, or the value alone where there is one input."""
        rows = []
        for item in items:
            values = item if isinstance(item, dict) else {self.inputs[0].name: item}
            if values.keys() != {spec.name for spec in self.inputs}:
                raise Wrong(INVALID, f"expected dicts of {', '.join(spec.name for spec in self.inputs)}")
            rows.append([self.convert(values[spec.name], spec, ()) for spec in self.inputs])
        return [self.stack(column, spec) for column, spec in zip(zip(*rows), self.inputs)]

    def zeros(self):
        return [[self.zero(spec) for spec in self.inputs]]

    def zero(self, spec):
        array = self.numpy.zeros([1, *[max(dim, 1) for dim in spec.shape]], spec.dtype)
        if spec.datatype == "BYTES":
            array.fill(b"")
        return array

    def texts(self, data, shape):
        """An array of `bytes` from elements that each follow their length."""
        data, elements, at = bytes(data), [], 0
        while at < len(data):
            end = at + 4 + int.from_bytes(data[at : at + 4], "little")
            elements.append(data[at + 4 : end])
            at = end
        return self.objects(elements, shape)

    def objects(self, elements, shape):
        array = self.numpy.empty(len(elements), object)
        array[:] = elements
        return array.reshape(shape)

    def one(self, result):
        row = self.outputs_of(result, ())
        return self.reply(GOOD, [self.stack([array], spec) for array, spec in zip(row, self.outputs)], [])

    def encode_batch(self, run, result):
        arrays = self.outputs_of(result, (run.rows,))
        return self.reply(GOOD, arrays, [])

    def encode_rows(self, run, results):
        rows, failures = run.split([self.row_of(result) for result in results])
        arrays = [self.stack([row[at] for row in rows], spec) for at, spec in enumerate(self.outputs)]
        return self.reply(SOME_FAILED if failures else GOOD, arrays, failures)

    def row_of(self, result):
        if isinstance(result, Failure):
            return result
        try:
            return self.outputs_of(result, ())
        except BaseException as error:
            return Failure(error)

    def stack(self, rows, spec):
        if not rows:
            return self.numpy.empty((0, *[max(dim, 0) for dim in spec.shape]), spec.dtype)
        if any(row.shape != rows[0].shape for row in rows):
            raise Wrong(MISMATCH, f"{spec.label}: the rows of one batch differ in shape")
        return self.numpy.stack(rows)

    def outputs_of(self, result, lead):
        """The arrays of all outputs, in the order of the signature."""
        if isinstance(result, dict):
            names = [spec.name for spec in self.outputs]
            if result.keys() != set(names):
                got = ", ".join(map(str, result)) or "none"
                raise Wrong(MISMATCH, f"expected the outputs {', '.join(names)}, got {cut(got, 200)}")
            return [self.convert(result[spec.name], spec, lead) for spec in self.outputs]
        if len(self.outputs) > 1:
            raise Wrong(MISMATCH, f"expected a dict of {len(self.outputs)} outputs by name, got {kind_of(result)}")
        return [self.convert(result, self.outputs[0], lead)]

    def convert(self, value, spec, lead):
        """The value as an array of that type and shape, where no number changes its meaning by it."""
        if value is None or isinstance(value, (dict, set)):
            raise Wrong(MISMATCH, f"{spec.label}: expected an array, got {kind_of(value)}")
        if hasattr(value, "__next__"):
            value = list(islice(value, lead[0] + 1 if lead else None))
        try:
            array = self.numpy.asarray(value, object if spec.datatype == "BYTES" else None, order="C")
        except Exception as error:
            raise Wrong(MISMATCH, f"{spec.label}: {kind_of(value)} is no array: {error_text(error)}") from None
        if lead and array.shape[:1] != lead:
            got = array.shape[0] if array.ndim else "a single number"
            raise Wrong(MISMATCH, f"{spec.label}: expected {lead[0]} rows, got {got}")
        row = array.shape[len(lead) :]
        if len(row) != len(spec.shape) or any(want not in (-1, got) for want, got in zip(spec.shape, row)):
            raise Wrong(MISMATCH, f"{spec.label}: expected rows of shape {spec.shape}, got {list(row)}")
        if spec.datatype == "BYTES":
            return self.objects([bytes_of(element, spec) for element in array.flat], array.shape)
        if array.dtype == spec.dtype:
            return array
        if not self.fits(array, spec.dtype):
            raise Wrong(MISMATCH, f"{spec.label}: expected {spec.datatype}, got {array.dtype}, which may not fit")
        return array.astype(spec.dtype)

    def fits(self, array, dtype):
        """Whole numbers fit where their values do, others by their kind."""
        if array.dtype.kind in "iu" and dtype.kind in "iu":
            bounds = self.numpy.iinfo(dtype)
            return array.size == 0 or (int(array.min()) >= bounds.min and int(array.max()) <= bounds.max)
        return self.numpy.can_cast(array.dtype, dtype, "same_kind") and array.dtype.kind != "O"

    def reply(self, status, arrays, failures):
        meta, payload, end = bytearray((status, len(arrays))), [], 0
        for spec, array in zip(self.outputs, arrays):
            data = prefixed(array) if spec.datatype == "BYTES" else array.reshape(-1).view("u1")
            if end % ALIGNMENT:
                payload.append(bytes(-end % ALIGNMENT))
                end += -end % ALIGNMENT
            payload.append(data)
            end += len(data)
            meta += spec.head.pack(array.ndim - 1, *array.shape[1:], len(data))
        return Reply(bytes(meta), payload, failures)

    def refuse(self, failure):
        return Reply(bytes((ALL_FAILED, 0)), [], [(None, failure)])


class TensorSpec:
    """One input or output, from text such as `FP32[3,-1]`."""

    def __init__(self, side, name, text):
        if not isinstance(name, str) or not name:
            raise ValueError(f"the name of a tensor must be a text, not {kind_of(name)}")
        wrong = ValueError(
            f'"{name}" must be a type and the shape of one row, such as "FP32[64]", not {cut(repr(text), 100)}'
        )
        if not isinstance(text, str):
            raise wrong
        datatype, bracket, rest = text.replace(" ", "").partition("[")
        dims = rest[:-1].split(",") if rest[:-1] else []
        if bracket and not rest.endswith("]") or not all(dim == "-1" or dim.isdecimal() for dim in dims):
            raise wrong
        if datatype == "BF16":
            raise ValueError(f'"{name}" is BF16, which numpy does not have: use FP16 or FP32')
        if datatype not in DTYPES:
            raise ValueError(f'"{name}" is {cut(datatype, 100)}, which is not one of {", ".join(DTYPES)}')
        self.name = name
        self.label = f'{side} "{name}"'
        self.datatype = datatype
        self.shape = [int(dim) for dim in dims]
        self.head = struct.Struct(f"<B{len(dims)}IQ")
        self.dtype = None

    def __str__(self):
        return f"{self.datatype}[{','.join(map(str, self.shape))}]"


def rows_of(result, rows):
    """The results of a batch as a list of `rows` values."""
    if not isinstance(result, (list, tuple)):
        if result is None or isinstance(result, (str, bytes, bytearray, dict, set, frozenset)):
            raise Wrong(MISMATCH, f"expected a list of {rows} results, got {kind_of(result)}")
        if hasattr(result, "tolist"):
            result = result.tolist()
        elif hasattr(result, "__iter__") and not hasattr(result, "keys"):
            result = list(islice(result, rows + 1))
        if not isinstance(result, list):
            raise Wrong(MISMATCH, f"expected a list of {rows} results, got {kind_of(result)}")
    if len(result) != rows:
        raise Wrong(MISMATCH, f"expected {rows} results, got {len(result)}")
    return result


def jsonable(value):
    """Numbers and arrays of numpy, tensors, series: whatever can make itself a list."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"expected a value that JSON can say, got {kind_of(value)}")


def bytes_of(element, spec):
    """An element of that tensor: bytes, or a text as UTF-8."""
    if type(element) is bytes:
        return element
    if isinstance(element, str):
        try:
            return str.encode(element)
        except UnicodeEncodeError as error:
            raise Wrong(
                MISMATCH, f"{spec.label}: expected bytes or texts, got a text that UTF-8 cannot say: {error}"
            ) from None
    if isinstance(element, (bytes, bytearray)):
        return bytes(memoryview(element))
    raise Wrong(MISMATCH, f"{spec.label}: expected bytes or texts, got {kind_of(element)}")


def prefixed(array):
    """The elements, each after its length."""
    parts = []
    for element in array.flat:
        parts += (len(element).to_bytes(4, "little"), element)
    return b"".join(parts)


# --- The channel ---


class Channel:
    """The frames to and from the server.

    It leaves descriptor 0 to the null device before any other code runs, is not inherited by programs that the model starts, and is
    closed in processes that it forks: nobody but this process can answer."""

    def __init__(self):
        self.socket = socket.socket(fileno=fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, HIGH_DESCRIPTOR))
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.register_at_fork(after_in_child=self.socket.close)
        self.theirs = {}
        self.ours = {}
        # Of streams: what has come and is no frame yet, with the descriptors of frames that have not come, and what has yet to go.
        self.coming = bytearray()
        self.descriptors = deque()
        self.going = []

    def fileno(self):
        return self.socket.fileno()

    def hello(self):
        kind, slot, _, _, meta, payload = self.receive()
        control = self.theirs.pop(slot, None)
        if kind != HELLO or control is None:
            die("the server did not say hello")
        hello = json.loads(bytes(meta) + bytes(payload))
        if hello["protocol"] != PROTOCOL:
            die(f"the server speaks protocol {hello['protocol']}, expected {PROTOCOL}")
        return hello, control

    def next_run(self):
        """The next run, or None when it is time to go."""
        kind, slot, id, b, meta, payload = self.receive()
        if kind == CLOSE:
            return None
        if kind != RUN:
            die(f"the server sent a frame of kind {kind}")
        return Run(slot, id, b, meta, payload)

    def receive(self):
        header, descriptor = self.header()
        length, kind, flags, slot, id, a, b = HEADER.unpack(header)
        inline = 0 if flags & REGION else a
        if length > BODY_MAX or inline > length or (descriptor is not None) != bool(flags & DESCRIPTOR):
            die("the server sent a frame that is none")
        meta = self.exactly(length - inline)
        payload = self.exactly(inline)
        if descriptor is not None:
            self.theirs[slot] = mmap.mmap(descriptor, 0)
            os.close(descriptor)
        if flags & REGION:
            payload = memoryview(self.theirs.get(slot, b""))[:a]
        if len(payload) != a:
            die("the server named a region that it did not send")
        return kind, slot, id, b, meta, payload

    def frames(self, wait):
        """All frames that have come; waits for some if asked to."""
        self.fetch(0 if wait else socket.MSG_DONTWAIT)
        while wait and not self.holds_frame():
            self.fetch(0)
        frames = []
        while self.holds_frame():
            frames.append(self.take_frame())
        return frames

    def fetch(self, flags):
        try:
            data, ancillary, _, _ = self.socket.recvmsg(
                RECEIVE_AT_ONCE, socket.CMSG_SPACE(4), flags | socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, ancillary = b"", []
        if not data:
            # The server is gone, and so is this process, whatever threads the model has.
            os._exit(0)
        self.coming += data
        self.descriptors += [int.from_bytes(data[:4], sys.byteorder) for _, _, data in ancillary]

    def holds_frame(self):
        coming = self.coming
        return len(coming) >= HEADER.size and len(coming) >= HEADER.size + int.from_bytes(coming[:4], "little")

    def take_frame(self):
        length, kind, flags, slot, id, a, b = HEADER.unpack_from(self.coming)
        end = HEADER.size + length
        inline = 0 if flags & REGION or kind == CREDIT else a
        if length > BODY_MAX or inline > length or (flags & DESCRIPTOR and not self.descriptors):
            die("the server sent a frame that is none")
        meta, payload = self.coming[HEADER.size : end - inline], self.coming[end - inline : end]
        del self.coming[:end]
        if flags & DESCRIPTOR:
            descriptor = self.descriptors.popleft()
            payload = memoryview(mmap.mmap(descriptor, 0))[:a]
            os.close(descriptor)
        return kind, slot, id, a, b, meta, payload

    def push(self, kind, slot, id, meta, payload=()):
        """Sends a frame with the next flush; answers the length of the payload. What is too long for a frame goes at once."""
        size = sum(map(len, payload))
        if len(meta) + size <= BODY_MAX:
            self.going += (HEADER.pack(len(meta) + size, kind, 0, slot, id, size, 0), meta, *payload)
            return size
        self.flush()
        region = Region(size)
        region.write(payload)
        descriptor = region.descriptor.to_bytes(4, sys.byteorder)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)]
        self.deliver([HEADER.pack(len(meta), kind, REGION | DESCRIPTOR, slot, id, size, 0), meta], ancillary)
        return size

    def flush(self):
        if self.going:
            going, self.going = b"".join(self.going), []
            self.deliver([going], [])

    def header(self):
        """A header, and the descriptor that came with its first byte."""
        try:
            header, ancillary, _, _ = self.socket.recvmsg(HEADER.size, socket.CMSG_LEN(4), socket.MSG_CMSG_CLOEXEC)
        except OSError:
            header, ancillary = b"", []
        if not header:
            # The server is gone, and so is this process, whatever threads the model has.
            os._exit(0)
        if len(header) < HEADER.size:
            header += self.exactly(HEADER.size - len(header))
        descriptor = int.from_bytes(ancillary[0][2], sys.byteorder) if ancillary else None
        return header, descriptor

    def exactly(self, length):
        data = bytearray(length)
        view, got = memoryview(data), 0
        while got < length:
            more = self.socket.recv_into(view[got:], 0, socket.MSG_WAITALL)
            if not more:
                os._exit(0)
            got += more
        return data

    def done(self, run, reply):
        self.send(DONE, run.slot, run.id, reply.meta(), reply.payload)

    def send(self, kind, slot=0, id=0, meta=b"", payload=()):
        size = sum(map(len, payload))
        length, flags, ancillary = len(meta) + size, 0, []
        if size > INLINE_MAX:
            length, flags = len(meta), REGION
            region = self.ours.get(slot)
            if region is None or region.size < size:
                region = self.ours[slot] = Region(size)
                flags |= DESCRIPTOR
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, region.descriptor.to_bytes(4, sys.byteorder))]
            region.write(payload)
            payload = ()
        self.deliver([HEADER.pack(length, kind, flags, slot, id, size, 0), meta, *payload], ancillary)

    def deliver(self, parts, ancillary):
        try:
            sent = self.socket.sendmsg(parts, ancillary, socket.MSG_NOSIGNAL)
            if sent < sum(map(len, parts)):
                self.socket.sendall(b"".join(parts)[sent:], socket.MSG_NOSIGNAL)
        except OSError:
            os._exit(0)


class Region:
    """Shared memory without a name, of a size that nobody can change. The kernel frees it with the last who holds it."""

    def __init__(self, size):
        self.size = max(1 << 20, 1 << (size - 1).bit_length())
        self.descriptor = os.memfd_create("jitney", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, self.size)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)

    def __del__(self):
        os.close(self.descriptor)

    def write(self, parts):
        at = 0
        for part in parts:
            while len(part):
                written = os.pwrite(self.descriptor, part, at)
                part = part[written:]
                at += written


class Run:
    """What the server asks: rows of several requests, to be run together."""

    def __init__(self, slot, id, microseconds, meta, payload):
        self.slot = slot
        self.id = id
        self.meta = meta
        self.payload = payload
        self.flags, self.requests, self.rows = struct.unpack_from("<III", meta)
        self.heads_at = 12 + 4 * self.requests
        self.came = time.monotonic()
        self.deadline = self.came + microseconds / 1e6 if microseconds else None

    def values(self, codec):
        """The values of each input, all rows together."""
        return codec.decode(self)

    def counts(self):
        """How many rows each request has."""
        return struct.unpack_from(f"<{self.requests}I", self.meta, 12)

    def split(self, results):
        """The rows of the requests of which every row is good, and the others' first failures."""
        good, failures, start = [], [], 0
        for request, count in enumerate(self.counts()):
            rows = results[start : start + count]
            failure = next((row for row in rows if type(row) is Failure), None)
            if failure is None:
                good += rows
            else:
                failures.append((request, failure))
            start += count
        return good, failures

    def contexts(self, model):
        """The context of the batch, or of each row."""
        asked = self.asked(self.heads_at + model.codec.heads_size)
        if model.batched:
            ids = [request["id"] for request in asked]
            parameters = [request["parameters"] or {} for request in asked]
            return [Context(ids, parameters, self.deadline, self.left(model.control, 0, self.requests))]
        contexts = []
        for request, count in enumerate(self.counts()):
            told, left = asked[request], self.left(model.control, request, request + 1)
            deadline = None if told["remaining"] is None else self.came + told["remaining"]
            contexts += [Context(told["id"], told["parameters"] or {}, deadline, left)] * count
        return contexts

    def asked(self, at):
        """What the server tells of each request."""
        if not self.flags & 1:
            return [{"id": None, "parameters": None, "remaining": None}] * self.requests
        return json.loads(self.meta[at + 4 : at + 4 + int.from_bytes(self.meta[at : at + 4], "little")])

    def left(self, control, start, end):
        """A function that says whether nobody waits for these requests any more. The server notes it in the control region: the id of
        the run, then a byte for each request, of which the last stands for all that have none."""
        base, most = self.slot * SLOT_SIZE, SLOT_SIZE - 8
        start, end = min(start, most - 1), min(end, most)

        def left():
            block = control[base : base + SLOT_SIZE]
            return int.from_bytes(block[:8], "little") == self.id and block[8 + start : 8 + end].count(1) == end - start

        return left


class StreamRun(Run):
    """What the server asks to be answered with a stream: one row. Its head begins with the limit in microseconds."""

    def __init__(self, slot, id, microseconds, meta, payload, streams_at):
        super().__init__(slot, id, microseconds, meta[8:], payload)
        self.limit = int.from_bytes(meta[:8], "little") / 1e6
        self.cell = streams_at + STEP.size * (1 + slot)

    def left(self, control, start, end):
        """A function that says whether the reader has left. The server notes the id of the stream in its slot's part of the control
        region, so that a step that takes long can know of it."""
        return lambda: NUMBER.unpack_from(control, self.cell)[0] == self.id


class Warmup:
    """A run that the model asked for, or that tries it with zeros. It has no caller."""

    def __init__(self, values, asked=True):
        self.given = values
        self.asked = asked
        self.rows = len(values[0])
        self.requests = self.rows

    def values(self, codec):
        return self.given

    def split(self, results):
        failures = [(at, result) for at, result in enumerate(results) if type(result) is Failure]
        return [result for result in results if type(result) is not Failure], failures

    def contexts(self, model):
        return [Context(None, {}, None, lambda: False)] * self.rows


class Reply:
    """The answer to a run: the first bytes of its head, the payload in pieces, and what failed: requests by number, or the run as a
    whole, which has the number None."""

    def __init__(self, head, payload=(), failures=()):
        self.head = head
        self.payload = payload
        self.failures = failures

    def meta(self):
        if not self.failures:
            return self.head
        room = ERRORS_MAX // len(self.failures)
        told = [failure.report(request, room) for request, failure in self.failures]
        text = as_json(told if self.failures[0][0] is not None else told[0])
        return self.head + len(text).to_bytes(4, "little") + text


# --- Failures ---


class Unservable(Exception):
    """The class cannot be served: why, where in the file, and the traceback where its own code raised."""

    def __init__(self, text, where, traceback=None):
        super().__init__(text)
        self.where = where
        self.traceback = traceback

    def report(self):
        return {"error": cut(str(self), ERROR_MAX), "where": self.where, "traceback": self.traceback}


class Wrong(Exception):
    """An answer that is not what the contract says, or an input that cannot be what the model takes."""

    def __init__(self, kind, text):
        super().__init__(text)
        self.kind = kind


class Failure:
    """Why a request, or a whole run, has no answer."""

    def __init__(self, error):
        known = isinstance(error, Wrong)
        self.is_cancelled = type(error).__name__ == "CancelledError"
        self.kind = error.kind if known else RAISED
        self.error = cut(str(error), ERROR_MAX) if known else error_text(error)
        self.traceback = None if known else traceback_text(error)

    def report(self, request, room):
        error = cut(self.error, room // 2)
        traceback = None if self.traceback is None else cut(self.traceback, room // 2, keep_end=True)
        report = {"kind": self.kind, "error": error, "traceback": traceback}
        return report if request is None else {"request": request, **report}


def error_text(error):
    """`Class: message`, whatever the message is."""
    try:
        name, text = type(error).__name__, str(error)
        return cut(f"{name}: {text}" if text else name, ERROR_MAX)
    except BaseException:
        return "an exception whose message cannot be read"


def traceback_text(error):
    """The traceback from where the model's own code begins."""
    import traceback

    try:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == main.__code__.co_filename:
            trace = trace.tb_next
        return cut("".join(traceback.format_exception(type(error), error, trace)), TRACEBACK_MAX, keep_end=True)
    except BaseException:
        return "a traceback that cannot be read"


def cut(text, most, keep_end=False):
    """The text as UTF-8 can say it, of at most that many bytes."""
    data = str.encode(text, "utf-8", "backslashreplace")
    if len(data) <= most:
        return data.decode()
    most = max(0, most - 3)
    if keep_end:
        return "…" + data[len(data) - most :].decode("utf-8", "ignore")
    return data[:most].decode("utf-8", "ignore") + "…"


def kind_of(value):
    return "None" if value is None else type(value).__name__


def as_json(value):
    return json.dumps(value, ensure_ascii=False).encode()


def complain(text):
    """Prints a line that no replaced `sys.stderr` can stop."""
    try:
        os.write(2, f"jitney: {text}\n".encode())
    except OSError:
        pass


def die(text):
    """Ends the process at once: where the two sides no longer understand each other, silence is the safest answer."""
    complain(text)
    os._exit(70)


main()
