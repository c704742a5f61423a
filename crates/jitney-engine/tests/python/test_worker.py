"""The worker on its own: every way to write a model, every way to get it wrong, and what models do that they should not.

    python -m unittest discover -s crates/jitney-engine/tests/python

Needs nothing but Python; where numpy is missing, what needs it is skipped.
"""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import unittest
from pathlib import Path

from harness import RUN, Worker

HAS_NUMPY = importlib.util.find_spec("numpy") is not None
needs_numpy = unittest.skipUnless(HAS_NUMPY, "numpy is not installed")


class Modes(unittest.TestCase):
    def check(self, source, items, expected, mode, **hello):
        with Worker(source, **hello) as worker:
            worker.ready()
            self.assertEqual(worker.greeting["mode"], mode)
            self.assertEqual(worker.run_json(items), (expected, []))

    def test_a_batch_is_a_list(self):
        self.check(
            "class Model:\n def predict_batch(self, items): return [i * 2 for i in items]", [1, 2.5], [2, 5.0], "batch"
        )

    def test_batches_may_be_answered_with_any_sequence(self):
        for body in (
            "tuple(items)",
            "(i for i in items)",
            "map(str, items)",
            "__import__('collections').deque(items)",
            "range(len(items))",
        ):
            with Worker(f"class Model:\n def predict_batch(self, items): return {body}") as worker:
                results, errors = worker.ready().run_json([0, 1, 2])
                self.assertEqual(([int(result) for result in results], errors), ([0, 1, 2], []), body)

    def test_one_item_at_a_time(self):
        self.check(
            "class Model:\n def predict(self, item): return {'got': item}",
            [1, None],
            [{"got": 1}, {"got": None}],
            "item",
        )

    def test_static_and_class_methods(self):
        self.check("class Model:\n @staticmethod\n def predict(item): return item", [1], [1], "item")
        self.check("class Model:\n @classmethod\n def predict(cls, item): return cls.__name__", [1], ["Model"], "item")

    def test_decorated_methods_show_what_they_wrap(self):
        source = """
        import functools

        def logged(function):
            @functools.wraps(function)
            def inner(*args, **kwargs):
                return function(*args, **kwargs)
            return inner

        class Model:
            @logged
            async def predict(self, item, context):
                return [item, context.id]
        """
        self.check(source, [1], [[1, None]], "async")

    def test_async_calls_overlap(self):
        source = """
        import asyncio
        class Model:
            def __init__(self): self.running = self.peak = 0
            async def predict(self, item):
                self.running += 1
                self.peak = max(self.peak, self.running)
                await asyncio.sleep(0.01)
                self.running -= 1
                return self.peak
        """
        self.check(source, [0] * 8, [8] * 8, "async")
        self.check(source, [0] * 4, [2] * 4, "async", max_concurrency=2)

    def test_async_runs_overlap_and_answer_in_order(self):
        source = """
        import asyncio
        class Model:
            def __init__(self): self.met = asyncio.Event()
            async def predict(self, item):
                if item == "second": self.met.set()
                await self.met.wait()
                return item
        """
        with Worker(source) as worker:
            worker.ready()
            first = worker.start_json(["first"], slot=0)
            second = worker.start_json(["second"], slot=1)
            self.assertEqual(worker.answer_json(first), (["first"], []))
            self.assertEqual(worker.answer_json(second), (["second"], []))

    def test_async_batches_run_on_the_loop(self):
        self.check("class Model:\n async def predict_batch(self, items): return items", [1, 2], [1, 2], "batch")

    def test_close_is_called_at_the_end(self):
        for close in ("def close(self)", "async def close(self)"):
            with Worker(f"class Model:\n def predict(self, item): return item\n {close}: print('closed')") as worker:
                worker.ready().close()
                self.assertEqual((worker.output()[0], worker.process.returncode), (b"closed\n", 0), close)

    def test_when_the_server_goes_the_worker_goes(self):
        with Worker(
            "import threading, time\nthreading.Thread(target=time.sleep, args=[60]).start()\nclass Model:\n def predict(self, item): 0"
        ) as worker:
            worker.ready().socket.close()
            worker.process.wait(10)

    def test_attributes_are_told_at_the_start(self):
        source = "class Model:\n idempotent = False\n max_concurrency = 3\n def predict_batch(self, items, context): return items"
        with Worker(source) as worker:
            greeting = worker.ready().greeting
        told = {
            name: greeting[name]
            for name in ("protocol", "inputs", "outputs", "context", "idempotent", "max_concurrency")
        }
        expected = {
            "protocol": 1,
            "inputs": None,
            "outputs": None,
            "context": True,
            "idempotent": False,
            "max_concurrency": 3,
        }
        self.assertEqual(told, expected)

    def test_modules_have_their_names_and_their_folder(self):
        source = """
        import pickle, sys
        class Weights: pass
        class Model:
            def predict(self, item):
                copy = pickle.loads(pickle.dumps(Weights()))
                main = sys.modules["__main__"]
                return [__name__, type(copy).__module__, sys.path[0] == __file__.rpartition("/")[0], hasattr(main, "Model")]
        """
        self.check(source, [0], [["digits", "digits", True, False]], "item", name="digits.py")


class Contexts(unittest.TestCase):
    def test_a_row_knows_its_request(self):
        source = "class Model:\n def predict(self, item, context): return [context.id, context.parameters, context.remaining()]"
        contexts = [
            {"id": "a", "parameters": {"k": 1}, "remaining": 60},
            {"id": None, "parameters": None, "remaining": None},
        ]
        with Worker(source) as worker:
            results, errors = worker.ready().run_json([0, 0, 0], [2, 1], contexts=contexts)
        self.assertEqual(errors, [])
        self.assertEqual([result[:2] for result in results], [["a", {"k": 1}], ["a", {"k": 1}], [None, {}]])
        self.assertTrue(all(50 < result[2] <= 60 for result in results[:2]), results)
        self.assertIsNone(results[2][2])

    def test_a_batch_knows_all_requests(self):
        source = """
        import time
        class Model:
            def predict_batch(self, items, context):
                left = context.deadline - time.monotonic()
                return [[context.id, context.parameters, 50 < left < 61 and 50 < context.remaining() <= 60]] * len(items)
        """
        contexts = [
            {"id": "a", "parameters": None, "remaining": None},
            {"id": "b", "parameters": {"k": 1}, "remaining": 1},
        ]
        with Worker(source) as worker:
            results, _ = worker.ready().run_json([0, 0], contexts=contexts, deadline=60_000_000)
        self.assertEqual(results[0], [["a", "b"], [{}, {"k": 1}], True])

    def test_who_has_left_is_seen_while_it_runs(self):
        source = """
        import time
        class Model:
            def predict(self, item, context):
                while item == "wait" and not context.cancelled(): time.sleep(0.001)
                return context.cancelled()
        """
        with Worker(source) as worker:
            run = worker.ready().start_json(
                ["stay", "wait"], contexts=[{"id": None, "parameters": None, "remaining": None}] * 2, slot=1
            )
            worker.leave(run, [1], slot=1)
            self.assertEqual(worker.answer_json(run), ([False, True], []))

    def test_a_batch_is_cancelled_when_all_have_left(self):
        source = """
        import time
        class Model:
            def predict_batch(self, items, context):
                print("running", flush=True)
                while not context.cancelled(): time.sleep(0.001)
                return items
        """
        with Worker(source) as worker:
            run = worker.ready().start_json([1, 2], contexts=[{"id": None, "parameters": None, "remaining": None}] * 2)
            worker.process.stdout.readline()
            worker.leave(run + 1, [0, 1])
            worker.leave(run, [0])
            worker.leave(run, [0, 1])
            self.assertEqual(worker.answer_json(run), ([1, 2], []))


CLASS_ERRORS = [
    # what the file says, what the error must say, at which line
    (None, "the file cannot be read: No such file or directory", None),
    ("class Model:\n  def predict(self item): pass\n", "it is not Python: SyntaxError", 2),
    ("x = 'a\0b'\n", "it is not Python", None),
    (
        "import os\nimport no_such_package\n",
        "importing it raised ModuleNotFoundError: No module named 'no_such_package'",
        2,
    ),
    ("def f():\n  exit(3)\nf()\n", "importing it raised SystemExit: 3", 2),
    ("class Other: pass\n", 'there is no class "Model": there is Other', None),
    ("x = 1\n", 'there is no class "Model": there is none at all', None),
    ("\ndef Model(): pass\n", 'class "Model": "Model" must be a class, not function', 2),
    ("\n\nclass Model:\n  pass\n", 'class "Model": it has no method predict_batch, predict or stream', 3),
    ("class Model:\n  inputs = ['x']\n  def predict(self, x): 0\n", "inputs must be a dict such as", 2),
    ("class Model:\n  inputs = {'x': 'FP32[1]'}\n  def predict(self, x): 0\n", "it has inputs but no outputs", 2),
    ("class Model:\n  outputs = {'x': 'FP32[1]'}\n  def predict(self, x): 0\n", "it has outputs but no inputs", 2),
    ("class Model:\n  inputs = {}\n  outputs = {}\n  def predict(self, x): 0\n", "inputs is empty", 2),
    (
        "class Model:\n  inputs = {'x': 'FP33[1]'}\n  outputs = inputs\n",
        'inputs: "x" is FP33, which is not one of BOOL',
        2,
    ),
    ("class Model:\n  inputs = {'x': 'BF16[1]'}\n  outputs = inputs\n", '"x" is BF16, which numpy does not have', 2),
    ("class Model:\n  inputs = {'x': 'FP32[1'}\n  outputs = inputs\n", "such as \"FP32[64]\", not 'FP32[1'", 2),
    ("class Model:\n  inputs = {'x': 'FP32[a]'}\n  outputs = inputs\n", 'such as "FP32[64]"', 2),
    ("class Model:\n  inputs = {'x': 3}\n  outputs = inputs\n", 'such as "FP32[64]", not 3', 2),
    ("class Model:\n  idempotent = 1\n  def predict(self, x): 0\n", "idempotent must be True or False, not int", 2),
    (
        "class Model:\n  max_concurrency: int = 0\n  def predict(self, x): 0\n",
        "max_concurrency must be a whole number from 1",
        2,
    ),
    ("class Model:\n  warmup = 'x'\n  def predict(self, x): 0\n", "warmup must be a list of items, not str", 2),
    ("class Model:\n  def predict_batch(self): 0\n", "predict_batch takes (), but it is called with (items)", 2),
    (
        "class Model:\n  def predict_batch(self, a, b): 0\n",
        "predict_batch takes (a, b), but it is called with (items)",
        2,
    ),
    (
        "class Model:\n  def predict(self, item, *, key): 0\n",
        "predict takes (item, key), but it is called with (item)",
        2,
    ),
    ("class Model:\n  def predict(self, item): yield 1\n", "predict has one result for an item, but it yields", 2),
    (
        "class Model:\n  def __init__(self, path): 0\n  def predict(self, item): 0\n",
        "__init__ is called without arguments, but it needs path",
        2,
    ),
    ("class Model:\n  async def __init__(self): 0\n  def predict(self, item): 0\n", "__init__ cannot be async", 2),
    (
        "class Model:\n  def __init__(self):\n    [][1]\n  def predict(self, item): 0\n",
        "__init__ raised IndexError: list index out of range",
        3,
    ),
    (
        "class Model:\n  warmup = [1, 0]\n  def predict(self, item): return 1 / item\n",
        "the warm-up failed: ZeroDivisionError",
        3,
    ),
    (
        "class Model:\n  warmup = [1]\n  def predict_batch(self, items): return []\n",
        "the warm-up failed: expected 1 results, got 0",
        3,
    ),
]

TYPED_CLASS_ERRORS = [
    (
        "  inputs = {'a': 'FP32[1]', 'b': 'FP32[1]'}\n  def predict_batch(self, a): 0\n",
        "predict_batch takes (a), but it is called with (a, b)",
        3,
    ),
    (
        "  inputs = {'a': 'FP32[1]', 'b': 'FP32[1]'}\n  def predict_batch(self, b, c): 0\n",
        "takes (b, c), but it is called with (a, b)",
        3,
    ),
    (
        "  inputs = {'a': 'FP32[2]'}\n  def predict(self, a): return [1.0]\n  warmup = [[1.0]]\n",
        'warmup: input "a": expected rows of shape [2], got [1]',
        4,
    ),
    (
        "  inputs = {'a': 'FP32[2]'}\n  def predict(self, a): return [1.0]\n  warmup = [{'b': 1}]\n",
        "warmup: expected dicts of a",
        4,
    ),
]


class ClassErrors(unittest.TestCase):
    def check(self, source, error, line, **worker):
        with self.subTest(source), Worker(source, **worker) as worker:
            report = worker.failed()
            self.assertIn(error, report["error"])
            self.assertNotIn("\n", report["error"])
            self.assertEqual(report["where"], worker.path + (f":{line}" if line else ""))
            self.assertEqual(worker.process.wait(10), 1)

    def test_each_is_found_with_its_place(self):
        for source, error, line in CLASS_ERRORS:
            if HAS_NUMPY or "FP32" not in str(source):
                self.check(source, error, line)

    @needs_numpy
    def test_each_of_typed_models_is_found(self):
        for body, error, line in TYPED_CLASS_ERRORS:
            self.check("class Model:\n" + body + "  outputs = {'y': 'FP32[1]'}\n", error, line)

    def test_numpy_is_missed_by_name(self):
        source = "import sys; sys.modules['numpy'] = None\nclass Model:\n  inputs = outputs = {'x': 'FP32'}\n  def predict(self, x): 0\n"
        self.check(source, "typed models need numpy", 3)

    def test_a_file_may_not_take_the_name_of_a_loaded_module(self):
        self.check("class Model: pass", 'a model cannot be called "json.py"', None, name="json.py")

    def test_tracebacks_begin_in_the_model(self):
        with Worker(
            "class Model:\n  def __init__(self): self.load()\n  def load(self): 1 / 0\n  def predict(self, item): 0"
        ) as worker:
            traceback = worker.failed()["traceback"]
        self.assertIn("1 / 0", traceback)
        self.assertNotIn("worker.py", traceback)

    @needs_numpy
    def test_zeros_that_the_model_refuses_are_only_said(self):
        source = "class Model:\n  inputs = outputs = {'x': 'FP32[2]'}\n  def predict_batch(self, x): assert x.all()\n"
        with Worker(source) as worker:
            worker.ready().close()
            self.assertIn(b"a row of zeros failed, which may be as it should: AssertionError", worker.output()[1])


class Failures(unittest.TestCase):
    def failure(self, body, head="predict_batch(self, items)", items=(1, 2)):
        with Worker(f"import os, sys\nclass Model:\n def {head}:\n  {body}\n") as worker:
            answer = worker.ready().run_json(list(items))
            # It goes on.
            self.assertEqual(worker.process.poll(), None)
            return answer

    def test_answers_that_do_not_fit_are_mismatches(self):
        table = [
            ("return items[1:]", "expected 2 results, got 1"),
            ("return items + items", "expected 2 results, got 4"),
            ("import itertools; return itertools.count()", "expected 2 results, got 3"),
            ("pass", "expected a list of 2 results, got None"),
            ("return {1: 2, 3: 4}", "expected a list of 2 results, got dict"),
            ("return 'ab'", "expected a list of 2 results, got str"),
            ("return {1, 2}", "expected a list of 2 results, got set"),
            ("return 7", "expected a list of 2 results, got int"),
            ("return {1: 2, 3: 4}.keys()", None),
        ]
        for body, error in table:
            with self.subTest(body):
                answer = self.failure(body)
                if error is None:
                    self.assertEqual(answer, ([1, 3], []))
                else:
                    self.assertEqual(answer, {"kind": "mismatch", "error": error, "traceback": None})

    def test_whatever_is_raised_is_answered(self):
        table = [
            ("raise ValueError('no')", "ValueError: no"),
            ("raise ValueError", "ValueError"),
            ("sys.exit(3)", "SystemExit: 3"),
            ("raise KeyboardInterrupt", "KeyboardInterrupt"),
            ("raise StopIteration", "StopIteration"),
            ("raise GeneratorExit", "GeneratorExit"),
            ("raise ValueError('\\ud800\\x00')", "ValueError: \\ud800\x00"),
            (
                "raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})()",
                "an exception whose message cannot be read",
            ),
            (
                "raise type('Odd', (Exception,), {'__str__': lambda self: sys.exit(3)})()",
                "an exception whose message cannot be read",
            ),
            ("yield 1\n  raise ValueError('late')", "ValueError: late"),
            ("f = lambda: f()\n  f()", "RecursionError: maximum recursion depth exceeded"),
        ]
        for body, error in table:
            with self.subTest(body):
                answer = self.failure(body)
                self.assertEqual(answer["kind"], "raised")
                self.assertIn(error, answer["error"])

    def test_messages_are_bounded(self):
        for head in ("predict_batch(self, items)", "predict(self, item)"):
            answer = self.failure("raise ValueError('\\x01' * 1_000_000)", head, range(300))
            errors = [answer] if isinstance(answer, dict) else answer[1]
            self.assertEqual(len(errors), 1 if isinstance(answer, dict) else 300)
            self.assertTrue(
                all(len(error["error"]) <= 2_000 and error["error"].startswith("ValueError") for error in errors)
            )

    def test_an_item_fails_alone(self):
        results, errors = self.failure("return 1 / item", "predict(self, item)", [1, 0, 2])
        self.assertEqual(results, [1.0, 0.5])
        self.assertEqual(
            [(error["request"], error["kind"], error["error"]) for error in errors],
            [(1, "raised", "ZeroDivisionError: division by zero")],
        )

    def test_a_request_fails_with_any_of_its_rows(self):
        with Worker("class Model:\n def predict(self, item): return 1 / item") as worker:
            results, errors = worker.ready().run_json([1, 1, 0, 2], [1, 2, 1])
        self.assertEqual((results, [error["request"] for error in errors]), ([1.0, 0.5], [1]))

    def test_async_failures_are_answered_too(self):
        table = [
            ("raise StopIteration", "RuntimeError"),
            ("raise SystemExit(1)", "SystemExit"),
            ("import asyncio; raise asyncio.CancelledError", "CancelledError"),
            ("import asyncio; asyncio.current_task().cancel(); await asyncio.sleep(1)", "CancelledError"),
        ]
        for body, error in table:
            with self.subTest(body):
                results, errors = self.failure_async(body)
                self.assertEqual(results, [2])
                self.assertIn(error, errors[0]["error"])

    def failure_async(self, body):
        with Worker(
            f"class Model:\n async def predict(self, item):\n  if item == 1:\n   {body}\n  return item\n"
        ) as worker:
            return worker.ready().run_json([1, 2])

    def test_a_task_that_ends_the_program_does_not(self):
        source = """
        import asyncio, sys
        async def leave(): sys.exit(1)
        class Model:
            async def predict(self, item):
                asyncio.ensure_future(leave())
                await asyncio.sleep(0.01)
                return item
        """
        with Worker(source) as worker:
            self.assertEqual(worker.ready().run_json([1]), ([1], []))
            self.assertEqual(worker.run_json([2]), ([2], []))

    def test_what_json_cannot_say_fails_its_item(self):
        for value in ("{1, 2}", "b'x'", "object()", "'\\ud800'", "{(1, 2): 3}", "ValueError('mine')"):
            with self.subTest(value):
                results, errors = self.failure(f"return [1, {value}, 3]", items=[1, 2, 3])
                self.assertEqual((results, [error["request"] for error in errors]), ([1, 3], [1]))

    def test_rings_and_depths_fail_their_items(self):
        results, errors = self.failure("ring = []; ring.append(ring); return [ring, 'ok']")
        self.assertEqual((results, len(errors)), (["ok"], 1))
        results, errors = self.failure("deep = []\n  for _ in range(100_000): deep = [deep]\n  return [deep, 'ok']")
        self.assertEqual((results, len(errors)), (["ok"], 1))

    def test_not_a_number_passes_as_python_writes_it(self):
        with Worker("class Model:\n def predict_batch(self, items): return [float('nan'), -float('inf')]") as worker:
            run = worker.ready().start_json([1, 2])
            self.assertEqual(worker.receive_done(run).payload, b"[NaN,-Infinity]")

    def test_numbers_that_python_refuses_are_the_callers_fault(self):
        with Worker("class Model:\n def predict_batch(self, items): return items") as worker:
            answer = worker.ready().run_json(b"[" + b"1" * 5_000 + b"]", [1])
        if sys.version_info >= (3, 11):
            self.assertEqual(answer["kind"], "invalid")

    def test_answers_that_are_too_long_are_refused(self):
        for head, result in (("predict(self, item)", "'x' * item"), ("predict_batch(self, items)", "['x' * items[0]]")):
            for define in ("def", "async def"):
                source = f"class Model:\n {define} {head}: return {result}"
                with self.subTest(source), Worker(source, payload_max=1_000) as worker:
                    error = "expected an answer of at most 1000 bytes, got 1001"
                    self.assertEqual(worker.ready().run_json([996]), (["x" * 996], []))
                    self.assertEqual(worker.run_json([997]), {"kind": "mismatch", "error": error, "traceback": None})
                    self.assertEqual(worker.run_json([1]), (["x"], []))
                with Worker(source + "\n warmup = [997]", payload_max=1_000) as worker:
                    self.assertEqual(worker.failed()["error"], f"the warm-up failed: {error}")

    def test_large_answers_go_through_a_region(self):
        with Worker("class Model:\n def predict_batch(self, items): return ['x' * n for n in items]") as worker:
            worker.ready()
            for size in (10, 40_000, 5_000_000, 50_000):
                self.assertEqual(worker.run_json([size, 1])[0][0], "x" * size)


@needs_numpy
class TypedModels(unittest.TestCase):
    def run_typed(self, body, arrays, inputs="{'x': 'FP32[2]'}", outputs="{'y': 'FP32[2]'}", **run):
        with Worker(f"import numpy\nclass Model:\n inputs = {inputs}\n outputs = {outputs}\n {body}\n") as worker:
            return worker.ready().run_arrays(arrays, **run)

    def x(self, rows=3):
        import numpy

        return numpy.arange(rows * 2, dtype="f4").reshape(rows, 2)

    def test_arrays_come_by_name_or_in_order(self):
        import numpy

        a, b = numpy.full((2, 1), 1, "f4"), numpy.full((2, 1), 10, "i8")
        inputs = "{'a': 'FP32[1]', 'b': 'INT64[1]'}"
        heads = ["b, a", "*, a, b", "a, /, b", "**kw", "a, b, context", "a, b, c=1"]
        for head in heads:
            body = "kw['a'] + kw['b'] * 2" if head == "**kw" else "a + b * 2"
            (y,), errors = self.run_typed(
                f"def predict_batch(self, {head}): return {body}", [a, b], inputs, "{'y': 'FP64[1]'}"
            )
            self.assertEqual((y.tolist(), errors), ([[21], [21]], []), head)
        for head, body in [("one, two", "one + two * 2"), ("*args", "args[0] + args[1] * 2")]:
            (y,), _ = self.run_typed(
                f"def predict_batch(self, {head}): return {body}", [a, b], inputs, "{'y': 'FP64[1]'}"
            )
            self.assertEqual(y.tolist(), [[21], [21]], head)
        (y,), _ = self.run_typed(
            "def predict(self, item): return item['a'] + item['b'] * 2", [a, b], inputs, "{'y': 'FP64[1]'}"
        )
        self.assertEqual(y.tolist(), [[21], [21]])

    def test_arrays_are_views_that_can_be_written(self):
        import numpy

        for rows in (4, 100_000):
            body = "def predict_batch(self, x): assert not x.flags.owndata and x.flags.aligned; x += 1; return x"
            (y,), errors = self.run_typed(body, [self.x(rows)])
            self.assertEqual((errors, numpy.array_equal(y, self.x(rows) + 1)), ([], True))

    def test_every_type_there_and_back(self):
        import numpy

        for name in (
            "BOOL",
            "UINT8",
            "UINT16",
            "UINT32",
            "UINT64",
            "INT8",
            "INT16",
            "INT32",
            "INT64",
            "FP16",
            "FP32",
            "FP64",
        ):
            dtype = {"BOOL": "?", "FP16": "f2", "FP32": "f4", "FP64": "f8"}.get(name) or name.lower()
            x = numpy.array([[0, 1], [1, 0]], dtype)
            with Worker(
                f"class Model:\n inputs = {{'x': '{name}[2]'}}\n outputs = {{'x': '{name}[2]'}}\n def predict_batch(self, x): return x[::-1]"
            ) as worker:
                run = (
                    worker.ready().run_arrays([x])
                    if name in ("BOOL", "FP16", "FP32", "FP64", "INT64", "INT32", "UINT8")
                    else None
                )
            if run is not None:
                self.assertEqual(run[0][0].tolist(), x[::-1].tolist(), name)

    def test_bytes_there_and_back(self):
        import numpy

        x = numpy.empty((2, 2), object)
        x[:] = [[b"", b"a\0"], ["ä".encode(), b"x" * 70_000]]
        body = "def predict_batch(self, x): assert x.dtype == object; return x"
        (y,), _ = self.run_typed(body, [x], "{'x': 'BYTES[2]'}", "{'y': 'BYTES[2]'}")
        self.assertEqual(y, [b"", b"a\0", "ä".encode(), b"x" * 70_000])
        (y,), _ = self.run_typed(
            "def predict_batch(self, x): return ['ä', b'b']", [x], "{'x': 'BYTES[2]'}", "{'y': 'BYTES'}"
        )
        self.assertEqual(y, ["ä".encode(), b"b"])
        body = "def predict_batch(self, x): y = numpy.empty(2, object); y[0], y[1] = bytearray(b'c'), numpy.bytes_(b'd'); return y"
        (y,), _ = self.run_typed(body, [x], "{'x': 'BYTES[2]'}", "{'y': 'BYTES'}")
        self.assertEqual(y, [b"c", b"d"])
        error = self.run_typed(
            "def predict_batch(self, x): return [1, b'b']", [x], "{'x': 'BYTES[2]'}", "{'y': 'BYTES'}"
        )
        self.assertEqual(error["error"], 'output "y": expected bytes or texts, got int')

    def test_elements_that_are_wrong_fail_their_rows(self):
        table = [
            ("BYTES", "'a'", "5", "int"),
            ("BYTES", "'a'", "chr(0xD800)", "a text that UTF-8 cannot say"),
            ("BYTES[2]", "['a', b'a']", "[b'a', None]", "None"),
        ]
        for datatype, good, wrong, got in table:
            expected = f'output "y": expected bytes or texts, got {got}'
            outputs = f"{{'y': '{datatype}'}}"
            for head in ("def", "async def"):
                with self.subTest(datatype=datatype, wrong=wrong, head=head):
                    body = f"{head} predict(self, x): return {wrong} if x[0] == 2 else {good}"
                    (y,), errors = self.run_typed(body, [self.x()], outputs=outputs)
                    self.assertEqual(set(y), {b"a"})
                    self.assertEqual([(error["request"], error["kind"]) for error in errors], [(1, "mismatch")])
                    self.assertIn(expected, errors[0]["error"])
                    body = f"{head} predict_batch(self, x): return [{wrong} if row[0] == 2 else {good} for row in x]"
                    answer = self.run_typed(body, [self.x()], outputs=outputs)
                    self.assertEqual(answer["kind"], "mismatch")
                    self.assertIn(expected, answer["error"])

    def test_elements_that_are_wrong_fail_the_warm_up(self):
        for head in ("def predict(self, x): return 5", "async def predict(self, x): return 5"):
            source = f"class Model:\n inputs = {{'x': 'FP32[2]'}}\n outputs = {{'y': 'BYTES'}}\n {head}\n"
            expected = 'output "y": expected bytes or texts, got int'
            with self.subTest(head), Worker(source) as worker:
                worker.ready().close()
                self.assertIn(expected.encode(), worker.output()[1])
            with self.subTest(head), Worker(source + " warmup = [[1, 2]]\n") as worker:
                self.assertEqual(worker.failed()["error"], f"the warm-up failed: {expected}")
        source = "class Model:\n inputs = {'x': 'BYTES'}\n outputs = {'y': 'FP32'}\n warmup = [5]\n def predict(self, x): return 1"
        with Worker(source) as worker:
            self.assertEqual(
                worker.failed()["error"], 'class "Model": warmup: input "x": expected bytes or texts, got int'
            )

    def test_texts_to_warm_up_with_come_as_requests_bring_them(self):
        source = "class Model:\n inputs = {'x': 'BYTES'}\n outputs = {'y': 'BYTES'}\n warmup = ['ä']\n def predict(self, x): return x.decode()"
        with Worker(source) as worker:
            worker.ready()

    def test_whatever_keeps_an_answer_from_being_said_fails_its_run(self):
        import numpy

        for head in ("def", "async def"):
            source = f"""
            import numpy
            class Model:
                inputs = {{"size": "INT64"}}
                outputs = {{"y": "UINT8[-1]"}}
                {head} predict(self, size): return numpy.zeros(size, "u1")
            """
            # There is memory for the rows, which nobody touches, but not for all of them together.
            with self.subTest(head), Worker(source, memory=4 << 30) as worker:
                answer = worker.ready().run_arrays([numpy.array([1 << 30] * 3, "i8")])
                self.assertEqual(answer["kind"], "raised")
                self.assertIn("MemoryError", answer["error"])
                (y,), errors = worker.run_arrays([numpy.array([2, 2], "i8")])
                self.assertEqual((y.tolist(), errors), ([[0, 0]] * 2, []))

    def test_arrays_that_are_too_long_are_refused(self):
        for head in ("def predict(self, x)", "async def predict_batch(self, x)"):
            source = f"class Model:\n inputs = outputs = {{'x': 'FP32[2]'}}\n {head}: return x"
            with self.subTest(head), Worker(source, payload_max=24) as worker:
                self.assertEqual(worker.ready().run_arrays([self.x(3)])[1], [])
                error = "expected an answer of at most 24 bytes, got 32"
                self.assertEqual(
                    worker.run_arrays([self.x(4)]), {"kind": "mismatch", "error": error, "traceback": None}
                )

    def test_outputs_of_other_kinds_become_arrays(self):
        bodies = [
            "return x.tolist()",
            "return (row for row in x)",
            "return {'y': x}",
            "return numpy.asfortranarray(x)",
            "return x.astype('f8')",
            "return x.astype('>f4')",
            "return x.astype('i8')",
            "return type('Tensor', (), {'__array__': lambda self, dtype=None, copy=None: x})()",
            "return x[::-1][::-1]",
        ]
        for body in bodies:
            with self.subTest(body):
                (y,), errors = self.run_typed(f"def predict_batch(self, x): {body}", [self.x()])
                self.assertEqual((y.tolist(), errors), (self.x().tolist(), []))

    def test_outputs_that_do_not_fit_are_mismatches(self):
        table = [
            ("return x[:-1]", 'output "y": expected 3 rows, got 2'),
            ("return numpy.concatenate([x, x])", 'output "y": expected 3 rows, got 6'),
            ("return x[:, :1]", 'output "y": expected rows of shape [2], got [1]'),
            ("return x.sum()", 'output "y": expected 3 rows, got a single number'),
            ("return x.sum(axis=1)", 'output "y": expected rows of shape [2], got []'),
            ("return None", 'output "y": expected an array, got None'),
            ("return {'z': x}", "expected the outputs y, got z"),
            ("return {'y': x, 'z': x}", "expected the outputs y, got y, z"),
            ("return {}", "expected the outputs y, got none"),
            ("return {'y': None}", 'output "y": expected an array, got None'),
            ("return {'y': {}}", 'output "y": expected an array, got dict'),
            ("return [[1, 2], [3], [4, 5]]", 'output "y": '),
            ("return x.astype('c8')", 'output "y": expected FP32, got complex64'),
            ("return [['a', 'b']] * 3", 'output "y": expected FP32, got <U1'),
            ("return [[None, None]] * 3", 'output "y": expected FP32, got object'),
            ("return 'abc'", 'output "y": expected 3 rows, got a single number'),
        ]
        for body, error in table:
            with self.subTest(body):
                answer = self.run_typed(f"def predict_batch(self, x): {body}", [self.x()])
                self.assertEqual((answer["kind"], answer["traceback"]), ("mismatch", None), answer)
                self.assertIn(error, answer["error"])

    def test_whole_numbers_fit_by_value(self):
        for value, outputs, fits in [
            (255, "UINT8", True),
            (256, "UINT8", False),
            (-1, "UINT8", False),
            (2**31, "INT32", False),
            (1.5, "INT32", False),
        ]:
            answer = self.run_typed(
                f"def predict_batch(self, x): return numpy.array([{value}] * 3)",
                [self.x()],
                outputs=f"{{'y': '{outputs}'}}",
            )
            self.assertEqual(isinstance(answer, tuple), fits, (value, outputs))

    def test_several_outputs_need_names(self):
        outputs = "{'y': 'FP32[2]', 'z': 'FP32'}"
        (y, z), _ = self.run_typed(
            "def predict_batch(self, x): return {'z': x[:, 0], 'y': x}", [self.x()], outputs=outputs
        )
        self.assertEqual((y.tolist(), z.tolist()), (self.x().tolist(), [0, 2, 4]))
        answer = self.run_typed("def predict_batch(self, x): return x", [self.x()], outputs=outputs)
        self.assertIn("expected a dict of 2 outputs by name, got ndarray", answer["error"])

    def test_rows_are_run_and_fail_alone(self):
        body = "def predict(self, x):\n  assert x.shape == (2,)\n  if x[0] == 2: raise ValueError('two')\n  return x"
        (y,), errors = self.run_typed(body, [self.x(4)], counts=[1, 1, 2])
        self.assertEqual(y.tolist(), self.x(4)[[0, 2, 3]].tolist())
        self.assertEqual([(error["request"], error["error"]) for error in errors], [(1, "ValueError: two")])
        (y,), errors = self.run_typed("def predict(self, x): return [1]", [self.x(2)])
        self.assertEqual((len(y), [error["kind"] for error in errors]), (0, ["mismatch"] * 2))

    def test_rows_of_different_shapes_do_not_mix(self):
        answer = self.run_typed(
            "def predict(self, x): return numpy.zeros(int(x[0]), 'f4')", [self.x()], outputs="{'y': 'FP32[-1]'}"
        )
        self.assertEqual(answer["error"], 'output "y": the rows of one batch differ in shape')

    def test_scalars_and_free_dimensions(self):
        import numpy

        x = numpy.zeros((3, 0, 5), "f4")
        (y,), _ = self.run_typed(
            "def predict_batch(self, x): return [x.shape[2]] * len(x)", [x], "{'x': 'FP32[-1, 5]'}", "{'y': 'INT64'}"
        )
        self.assertEqual(y.tolist(), [5, 5, 5])

    def test_warm_up_runs_before_ready(self):
        source = """
        class Model:
            inputs = {"x": "FP32[2]"}
            outputs = {"y": "INT64"}
            seen = []
            def __init__(self): self.warmup = [[1, 2], {"x": [3, 4]}]
            def predict_batch(self, x):
                self.seen.append(x.tolist())
                return [len(self.seen)] * len(x)
        """
        with Worker(source) as worker:
            self.assertEqual(worker.ready().run_arrays([self.x()])[0][0].tolist(), [2, 2, 2])

    def test_numpy_values_in_json(self):
        source = "import numpy\nclass Model:\n def predict_batch(self, items): return numpy.array(items) * 2\n"
        with Worker(source) as worker:
            self.assertEqual(worker.ready().run_json([1, 2]), ([2, 4], []))
        source = "import numpy\nclass Model:\n def predict(self, item): return {'s': numpy.float32(1.5), 'a': numpy.arange(2), 'i': numpy.int64(3)}\n"
        with Worker(source) as worker:
            self.assertEqual(worker.ready().run_json([1]), ([{"s": 1.5, "a": [0, 1], "i": 3}], []))


class Mischief(unittest.TestCase):
    def survives(self, body, results=(1, 2), head="import os, sys, signal, threading, time"):
        source = f"{head}\nclass Model:\n def predict_batch(self, items):\n  {body}\n  return items\n"
        with self.subTest(body), Worker(source) as worker:
            worker.ready()
            for _ in range(2):
                self.assertEqual(worker.run_json([1, 2]), (list(results), []))

    def test_standard_streams_are_the_models_to_break(self):
        self.survives("sys.stdout = sys.stderr = sys.stdin = None")
        self.survives("sys.stdout.close(); sys.stderr.close()")
        self.survives("assert sys.stdin.read() == '' and os.read(0, 1) == b''")
        self.survives("os.write(1, b'x' * 1000); print('y' * 1000)")

    def test_low_descriptors_may_be_closed(self):
        self.survives("os.closerange(0, 100)")

    def test_signals_may_be_caught(self):
        self.survives("signal.signal(signal.SIGPIPE, signal.SIG_DFL)")
        self.survives(
            "signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001); time.sleep(0.05)"
        )

    def test_children_cannot_answer(self):
        self.survives("if os.fork() == 0: return ['child'] * 2\n  os.wait()")
        self.survives("if os.fork() == 0: sys.exit()\n  os.wait()")
        self.survives(
            "import subprocess; subprocess.run([sys.executable, '-c', 'import os; os.listdir(\"/dev/fd\")'], close_fds=False, check=True)"
        )

    def test_process_pools_work(self):
        for method in ("fork", "spawn"):
            source = f"""
            import multiprocessing
            def double(item): return item * 2
            class Model:
                def __init__(self): self.pool = multiprocessing.get_context("{method}").Pool(1)
                def predict_batch(self, items): return self.pool.map(double, items)
                def close(self): self.pool.terminate()
            """
            with self.subTest(method), Worker(source) as worker:
                self.assertEqual(worker.ready().run_json([1, 2]), ([2, 4], []))
                worker.close()
                worker.process.wait(20)

    def test_crashes_name_the_line(self):
        source = "import ctypes\nclass Model:\n def predict(self, item):\n  ctypes.string_at(0)\n"
        with Worker(source) as worker:
            worker.ready().start_json([1])
            self.assertIsNone(worker.receive())
            output = worker.output()[1]
        self.assertEqual(worker.process.returncode, -signal.SIGSEGV)
        self.assertIn(b'model.py", line 4 in predict', output)

    def test_lines_are_printed_as_they_come(self):
        with Worker("class Model:\n def predict(self, item): print('Zeile \\u00e4')", env={"LC_ALL": "C"}) as worker:
            worker.ready().run_json([1])
            self.assertEqual(worker.process.stdout.readline(), "Zeile ä\n".encode())

    def test_memory_is_capped(self):
        source = "class Model:\n def predict(self, item): return len(bytearray(item))"
        with Worker(source, memory=256 << 20) as worker:
            results, errors = worker.ready().run_json([1 << 20, 1 << 30])
        self.assertEqual((results, errors[0]["error"]), ([1 << 20], "MemoryError"))


class HostileServer(unittest.TestCase):
    """What makes no sense ends the worker: the server then starts another."""

    SOURCE = "class Model:\n def predict(self, item): return item"

    def check(self, *frames):
        with Worker(self.SOURCE) as worker:
            worker.ready()
            with contextlib.suppress(BrokenPipeError):
                for kind, meta in frames:
                    worker.send(kind, meta)
            self.assertIsNone(worker.receive())
            self.assertNotEqual(worker.process.wait(10), 0)

    def test_frames_that_are_none(self):
        self.check((99, b""))
        self.check((RUN, bytes(2 << 20)))
        self.check((RUN, json.dumps([1]).encode()))

    def test_half_a_frame_and_the_end(self):
        with Worker(self.SOURCE) as worker:
            worker.ready().socket.sendall(b"\x10\0\0\0\x02")
            worker.socket.close()
            worker.process.wait(10)

    def test_closing_before_the_end_of_the_source(self):
        with Worker(None) as worker:
            worker.failed()


class Cost(unittest.TestCase):
    def test_memory_beyond_a_bare_interpreter(self):
        bare = "import faulthandler, fcntl, json, mmap, os, resource, socket, struct, importlib.util, time; print(0, flush=True); time.sleep(60)"
        with subprocess.Popen([sys.executable, "-c", bare], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            before = resident(process.pid)
            process.kill()
        with Worker("class Model:\n def predict(self, item): return item") as worker:
            worker.ready().run_json([1])
            after = resident(worker.process.pid)
        self.assertLess(after - before, 5 << 20)


def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    unittest.main()
