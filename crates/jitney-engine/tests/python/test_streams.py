"""The worker on its own: how it steps many streams, and what it says about them."""

import importlib.util
import json
import os
import struct
import tempfile
import time
import unittest
from pathlib import Path

from harness import CHUNK, END, HEADER, RUN, TIMEOUT_S, Worker

HAS_NUMPY = importlib.util.find_spec("numpy") is not None
needs_numpy = unittest.skipUnless(HAS_NUMPY, "numpy is not installed")

PLAIN = """
import os, time

class Model:
    def __init__(self):
        self.steps = {}
        self.ended = []

    def stream(self, item, context):
        if item == "state":
            yield [self.steps, self.ended]
            return
        name, count, what = item
        try:
            for number in range(count):
                self.steps[name] = self.steps.get(name, 0) + 1
                if what == "raise" and number == 2:
                    raise ValueError("told to")
                if what == "large":
                    yield "x" * (1 << 21)
                elif what == "wait":
                    yield number
                    while not os.path.exists(name):
                        time.sleep(0.001)
                elif what == "left":
                    yield number
                    while not context.cancelled():
                        time.sleep(0.001)
                else:
                    yield [name, number]
        finally:
            self.ended.append(name)

    def close(self):
        print("closed", self.ended, flush=True)
"""
LOOP = (
    PLAIN.replace("def stream", "async def stream")
    .replace("import os, time", "import asyncio, os, time")
    .replace("yield [name, number]", "await asyncio.sleep(0); yield [name, number]")
)
BOTH = (PLAIN, LOOP)
# What it does when it is told to end is the first thing that an item says, and how many results it gives before, the second.
RELUCTANT = """
import asyncio

class Model:
    def __init__(self):
        self.ended = []

    async def stream(self, item):
        if item == "ended":
            return [self.ended]
        what, count = item
        if what != "returns":
            return self.results(what, count)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended.append(what)
        return [1, 2]

    async def results(self, what, count):
        try:
            for number in range(count):
                yield number
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield "partial"
            while what == "goes on":
                await asyncio.sleep(0)
                yield "more"
        finally:
            self.ended.append(what)

    async def close(self):
        print("closed", self.ended, flush=True)
"""


def eventually(condition):
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, "it takes for ever"
        time.sleep(0.001)


def until_at_work(worker, id):
    eventually(lambda: worker.stepped() == id)


class Streams(unittest.TestCase):
    def test_results_come_in_order_and_then_the_end(self):
        for source in BOTH:
            with Worker(source) as worker:
                worker.ready()
                self.assertEqual(worker.greeting["mode"], "stream")
                for count in (0, 1, 16, 100):
                    id = worker.open(["a", count, ""])
                    self.assertEqual(worker.all(id), ([["a", number] for number in range(count)], None))

    def test_nothing_comes_without_credit(self):
        for source in BOTH:
            with Worker(source) as worker:
                worker.ready()
                slow = worker.open(["slow", 1000, ""])
                self.assertEqual(worker.take(slow, 16)[-1], ["slow", 15])
                # The others go on, and the slow one is not even stepped.
                for _ in range(3):
                    quick = worker.open(["quick", 100, ""])
                    self.assertEqual(len(worker.all(quick)[0]), 100)
                state = worker.open("state")
                self.assertEqual(worker.take(state, 1)[0][0]["slow"], 16)
                self.assertIsNone(worker.end(state))
                for credit in (1, 7, 8):
                    worker.credit(slow, credit)
                    self.assertEqual(len(worker.take(slow, credit)), credit)
                worker.stop(slow)
                self.assertIsNone(worker.end(slow))

    def test_a_large_result_takes_all_the_credit_and_comes_by_itself(self):
        for source in BOTH:
            with Worker(source) as worker:
                worker.ready()
                large = worker.open(["large", 3, "large"])
                for _ in range(3):
                    self.assertEqual(len(worker.result(large)), 1 << 21)
                    state = worker.open("state")
                    worker.take(state, 1)
                    worker.end(state)
                    worker.credit(large, 16)
                self.assertIsNone(worker.end(large))

    def test_plain_generators_are_stepped_in_turn(self):
        with Worker(PLAIN) as worker:
            worker.ready()
            worker.hold()
            ids = [worker.open([f"s{number}", 10, ""]) for number in range(3)]
            worker.let_go()
            frames = [worker.receive() for _ in range(33)]
            order = [frame.id for frame in frames if frame.kind == CHUNK]
            self.assertEqual(order, ids * 10)

    def test_what_is_ready_in_one_turn_of_the_loop_goes_out_together(self):
        source = """
        import asyncio

        class Model:
            def __init__(self):
                self.gate = asyncio.Event()

            async def stream(self, item):
                if item == "open":
                    self.gate.set()
                    return
                await self.gate.wait()
                yield item
        """
        with Worker(source) as worker:
            worker.ready()
            ids = [worker.open(number) for number in range(50)]
            eventually(lambda: all(worker.begun(id) for id in ids))
            worker.open("open")
            # All that one reading finds when it waits for the first.
            sizes = []
            while sum(sizes) < 50 * (2 * HEADER.size + 4) + HEADER.size:
                sizes.append(len(worker.socket.recv(1 << 20)))
            self.assertLess(len(sizes), 20, sizes)

    def test_who_leaves_ends_the_generator_where_it_stands(self):
        for source in BOTH:
            with Worker(source) as worker:
                worker.ready()
                for name, taken in (("paused", 16), ("unread", 0)):
                    id = worker.open([name, 1000, ""])
                    worker.take(id, taken)
                    worker.stop(id)
                    frame = worker.receive()
                    while frame is not None and frame.kind == CHUNK:
                        frame = worker.receive()
                    self.assertEqual((frame.kind, frame.id, frame.meta), (END, id, b""))
                    state = worker.open("state")
                    steps, ended = worker.result(state)
                    self.assertTrue(name in ended or name not in steps)
                    worker.end(state)

    def test_a_step_can_see_that_its_reader_has_left(self):
        for source in BOTH:
            with Worker(source) as worker:
                worker.ready()
                id = worker.open(["a", 1000, "left"], contexts=[{"id": "r", "parameters": None, "remaining": 5}])
                worker.take(id, 1)
                until_at_work(worker, id)
                worker.leave_stream(id)
                worker.stop(id)
                frames = [worker.receive()]
                while frames[-1].kind == CHUNK:
                    frames.append(worker.receive())
                self.assertLess(len(frames), 4)
                until_at_work(worker, 0)

    def test_errors_come_last(self):
        for source in BOTH:
            with Worker(source) as worker:
                worker.ready()
                other = worker.open(["other", 1000, ""])
                worker.take(other, 16)
                id = worker.open(["a", 5, "raise"])
                results, error = worker.all(id)
                self.assertEqual(results, [["a", 0], ["a", 1]])
                self.assertEqual((error["kind"], error["error"]), ("raised", "ValueError: told to"))
                self.assertIn('raise ValueError("told to")', error["traceback"])
                worker.credit(other, 1)
                worker.take(other, 1)

    def test_it_says_which_stream_is_at_work(self):
        with tempfile.TemporaryDirectory() as folder:
            for number, source in enumerate(BOTH):
                file = str(Path(folder) / f"go{number}")
                with Worker(source) as worker:
                    worker.ready()
                    idle = worker.open(["idle", 1000, ""])
                    worker.take(idle, 16)
                    self.assertTrue(worker.begun(idle))
                    until_at_work(worker, 0)
                    id = worker.open([file, 2, "wait"])
                    self.assertEqual(worker.take(id, 1), [0])
                    until_at_work(worker, id)
                    since = struct.unpack("<Q", os.pread(worker.control.descriptor, 8, 1024))[0]
                    self.assertLess(abs(time.monotonic_ns() - since), TIMEOUT_S * 1e9)
                    late = worker.open(["late", 1, ""])
                    self.assertFalse(worker.begun(late))
                    Path(file).touch()
                    seen = [worker.receive() for _ in range(4)]
                    self.assertEqual({frame.id for frame in seen}, {id, late})
                    until_at_work(worker, 0)

    def test_a_stream_that_awaits_for_too_long_ends_alone(self):
        source = """
        import asyncio

        class Model:
            async def stream(self, item):
                yield item
                if item == "waits":
                    try:
                        await asyncio.Event().wait()
                    finally:
                        await asyncio.sleep(0.01)
                        print("ended")
                while True:
                    await asyncio.sleep(0)
                    yield item
        """
        with Worker(source) as worker:
            worker.ready()
            other = worker.open("other", limit=0.2)
            worker.take(other, 16)
            id = worker.open("waits", limit=0.2)
            self.assertEqual(worker.take(id, 1), ["waits"])
            error = worker.end(id)
            self.assertEqual((error["kind"], error["error"]), ("limit", "no result within 0.2 s"))
            # The other one has no credit: it has all the time of the world.
            worker.credit(other, 4)
            worker.take(other, 4)
            worker.stop(other)
            worker.end(other)
            worker.close()
            self.assertIn(b"ended", worker.output()[0])

    def test_a_generator_that_catches_its_end_gives_nothing_more(self):
        def begin(worker, item, count, **terms):
            id = worker.open([item, count], **terms)
            eventually(lambda: worker.begun(id))
            worker.take(id, 0 if item == "returns" else count)
            return id

        for item in ("gives", "goes on", "returns"):
            with self.subTest(item), Worker(RELUCTANT) as worker:
                worker.ready()
                # One that has waited for too long has ended when it gives something.
                self.assertEqual(worker.end(begin(worker, item, 1, limit=0.1))["kind"], "limit")
                self.assertEqual(worker.all(worker.open("ended")), ([[item]], None))
                # One that is left has credit for one more result, and gets no more.
                id = begin(worker, item, 15)
                worker.stop(id)
                self.assertIsNone(worker.end(id))
                self.assertEqual(worker.all(worker.open("ended")), ([[item] * 2], None))
                begin(worker, item, 1)
                worker.close()
                self.assertIn(f"closed {[item] * 3}".encode(), worker.output()[0])
                self.assertEqual(worker.process.returncode, 0)

    def test_closing_ends_what_goes_on(self):
        for source in BOTH:
            with Worker(source) as worker:
                worker.ready()
                ids = [worker.open([f"s{number}", 1000, ""]) for number in range(3)]
                ended = set()
                chunks = 0
                while chunks < 48:
                    chunks += worker.receive().kind == CHUNK
                worker.close()
                while len(ended) < 3:
                    frame = worker.receive()
                    self.assertEqual(frame.kind, END)
                    ended.add(frame.id)
                self.assertEqual(ended, set(ids))
                out, err = worker.output()
                self.assertIn(b"closed ['s", out)
                self.assertEqual((worker.process.returncode, err), (0, b""))

    def test_it_leaves_with_its_server(self):
        for source in BOTH:
            with Worker(source) as worker:
                worker.ready()
                worker.take(worker.open(["a", 1000, ""]), 16)
                worker.socket.close()
                self.assertEqual(worker.process.wait(TIMEOUT_S), 0)

    def test_how_many_it_bears_is_said(self):
        table = [
            (PLAIN, {}, 64),
            (LOOP, {}, 1024),
            (PLAIN.replace("class Model:", "class Model:\n    max_concurrency = 5"), {}, 5),
            (LOOP, {"max_concurrency": 7}, 7),
        ]
        for source, hello, expected in table:
            with Worker(source, **hello) as worker:
                self.assertEqual(worker.ready().greeting["max_concurrency"], expected)

    def test_what_is_no_stream_is_an_error(self):
        table = [
            ("def stream(self, item): return item", [[1, 2], ([1, 2], None)], [7, ([], "TypeError")]),
            ("def stream(self, item): raise StopIteration(item)", [1, ([], "RuntimeError")]),
            ("async def stream(self, item): return item", [[1], ([1], None)], [None, ([], "TypeError")]),
            ("async def stream(self, item): raise KeyError(item)", [1, ([], "KeyError: 1")]),
            ("def stream(self, item): yield {1}", [1, ([], "expected a value that JSON can say, got set")]),
        ]
        for source, *cases in table:
            with Worker(f"class Model:\n {source}") as worker:
                worker.ready()
                for item, (values, part) in cases:
                    results, error = worker.all(worker.open(item))
                    self.assertEqual(results, values, source)
                    self.assertEqual(error is None, part is None, source)
                    self.assertIn(part or "", error["error"] if error else "")

    def test_requests_of_any_size_and_cut_arrive(self):
        for source in BOTH:
            with Worker(source) as worker:
                worker.ready()
                name = "n" * 100_000
                worker.send(
                    RUN,
                    struct.pack("<QIIII", 30_000_000, 0, 1, 1, 1),
                    [json.dumps([[name, 1, ""]]).encode()],
                    slot=1,
                    id=1,
                )
                worker.last = 1
                self.assertEqual(worker.all(1), ([[name, 0]], None))
                worker.hold()
                id = worker.open(["cut", 2, ""])
                data, worker.held = worker.held, None
                for at in range(len(data)):
                    worker.socket.sendall(data[at : at + 1])
                self.assertEqual(worker.all(id), ([["cut", 0], ["cut", 1]], None))

    def test_frames_that_are_none_end_it(self):
        for kind, meta in ((99, b""), (RUN, b"")):
            with Worker(PLAIN) as worker:
                worker.ready()
                worker.send(kind, meta, slot=1, id=1)
                frame = worker.receive()
                # A request without a head fails alone; an unknown kind ends the process.
                self.assertTrue(frame is None or frame.kind == END)

    def test_results_that_are_too_long_are_refused(self):
        for source in BOTH:
            with Worker(source, payload_max=1 << 20) as worker:
                worker.ready()
                results, error = worker.all(worker.open(["a", 1, "large"]))
                self.assertEqual((results, error["kind"]), ([], "mismatch"))
                self.assertEqual(error["error"], f"expected an answer of at most {1 << 20} bytes, got {(1 << 21) + 4}")
                self.assertEqual(worker.all(worker.open(["b", 1, ""])), ([["b", 0]], None))

    @needs_numpy
    def test_elements_that_are_wrong_end_their_stream(self):
        for head in ("def", "async def"):
            source = f"""
            class Model:
                inputs = {{"x": "FP32[2]"}}
                outputs = {{"t": "BYTES"}}

                {head} stream(self, x):
                    yield "good"
                    if x[0]:
                        yield [b"bad", 5, "bad \\ud800"][int(x[0])]
            """
            with self.subTest(head), Worker(source) as worker:
                worker.ready()
                for wrong, expected in ((1, "int"), (2, "a text that UTF-8 cannot say"), (0, None)):
                    data = struct.pack("<ff", wrong, 0)
                    id = worker.open(None, heads=struct.pack("<BIQ", 1, 2, len(data)), payload=[data, bytes(56)])
                    frame = worker.receive()
                    self.assertEqual((frame.kind, frame.id, frame.payload), (CHUNK, id, b"\x04\0\0\0good"))
                    frame = worker.receive()
                    self.assertEqual((frame.kind, frame.id), (END, id))
                    if expected is not None:
                        error = json.loads(frame.meta[6:])
                        self.assertEqual(error["kind"], "mismatch")
                        self.assertIn(f'output "t": expected bytes or texts, got {expected}', error["error"])
            # Those that warm it up are told apart from what is good, too.
            with Worker(source.replace("inputs =", "warmup = [[1, 0]]; inputs =")) as worker:
                expected = 'the warm-up failed: output "t": expected bytes or texts, got int'
                self.assertEqual(worker.failed()["error"], expected)

    @needs_numpy
    def test_typed_streams_give_rows(self):
        source = """
        class Model:
            inputs = {"x": "FP32[2]"}
            outputs = {"y": "FP32[-1]"}

            def stream(self, x):
                for size in range(1, 4):
                    yield x[:1].repeat(size)
                x[:] = 0
                yield [1.5]
                yield "text"
        """
        import numpy

        with Worker(source) as worker:
            worker.ready()
            data = numpy.array([[2.5, 3]], "<f4").tobytes()
            heads = struct.pack("<BIQ", 1, 2, len(data))
            worker.open(None, heads=heads, payload=[data, bytes(-len(data) % 64)])
            for expected in ([2.5], [2.5] * 2, [2.5] * 3, [1.5]):
                frame = worker.receive()
                status, outputs, ndim, dim, size = struct.unpack("<BBBIQ", frame.meta)
                self.assertEqual((status, outputs, ndim, dim, size), (0, 1, 1, len(expected), 4 * len(expected)))
                self.assertEqual(numpy.frombuffer(frame.payload[:size], "<f4").tolist(), expected)
            frame = worker.receive()
            self.assertEqual((frame.kind, frame.meta[0]), (END, 1))
            self.assertEqual(json.loads(frame.meta[6:])["kind"], "mismatch")


if __name__ == "__main__":
    unittest.main()
