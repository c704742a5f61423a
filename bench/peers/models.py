"""The models that every system serves: one file, so that what is measured is what stands in front of them.

    python models.py back-to-back sleep 32 2     calls a model without a server: rows per second
    python models.py copy 19267584 2             copies so many bytes into shared memory: bytes per second

`predict_batch` takes and gives lists, `predict_array` arrays, for a server that hands tensors over.
"""

import mmap
import os
import sys
import time
from pathlib import Path

ROUNDS = 5
DIGITS = Path(__file__).resolve().parents[2] / "examples/digits/model.onnx"


class Noop:
    """The sum of 16 numbers."""

    width = 16

    def predict_batch(self, items):
        return [sum(item) for item in items]

    def predict_array(self, features):
        return features.sum(axis=1, keepdims=True)


class Sleep(Noop):
    """5 ms a call and 0.1 ms a row: a device that is busy without using a core."""

    def predict_batch(self, items):
        time.sleep(0.005 + 0.0001 * len(items))
        return super().predict_batch(items)

    def predict_array(self, features):
        time.sleep(0.005 + 0.0001 * len(features))
        return super().predict_array(features)


class Digits:
    """The digits model of the examples, by ONNX Runtime on one thread."""

    width = 64

    def __init__(self):
        import numpy
        import onnxruntime

        self.numpy = numpy
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(DIGITS, options, providers=["CPUExecutionProvider"])

    def predict_batch(self, items):
        return self.predict_array(self.numpy.asarray(items, dtype="float32")).tolist()

    def predict_array(self, pixels):
        return self.session.run(["scores"], {"pixels": pixels})[0]


class Fault:
    """Says back the second number of an item, after doing what the first one asks for."""

    width = 2
    ANSWER, KILL, RAISE, HANG, BE_SLOW = range(5)

    def predict_batch(self, items):
        asked = {int(item[0]) for item in items}
        if self.KILL in asked:
            os.kill(os.getpid(), 9)
        if self.RAISE in asked:
            raise ValueError("asked to raise")
        if self.HANG in asked:
            time.sleep(3600)
        time.sleep(0.5 if self.BE_SLOW in asked else 0.005)
        return [item[1] for item in items]


MODELS = {"noop": Noop, "sleep": Sleep, "digits": Digits, "fault": Fault}


def back_to_back(model, rows, seconds):
    items = [[0.5] * model.width] * rows
    model.predict_batch(items)
    calls, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        model.predict_batch(items)
        calls += 1
    return rows * calls / (time.perf_counter() - started)


def copy(size, seconds):
    """The best of several rounds, from ordinary memory into memory that another process could map too."""
    import numpy

    source = numpy.ones(size, dtype="u1")
    shared = numpy.frombuffer(mmap.mmap(-1, size), dtype="u1")
    shared[:] = source  # The first touch makes the pages.
    best = 0.0
    for _ in range(ROUNDS):
        copies, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds / ROUNDS:
            shared[:] = source
            copies += 1
        best = max(best, size * copies / (time.perf_counter() - started))
    return best


if __name__ == "__main__":
    if sys.argv[1] == "copy":
        print(copy(int(sys.argv[2]), float(sys.argv[3])))
    else:
        print(back_to_back(MODELS[sys.argv[2]](), int(sys.argv[3]), float(sys.argv[4])))
