"""The models as jitney takes them: with types, where a batch is an array, and without, where it is a list of JSON values."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import models  # noqa: E402


class Noop:
    inputs = {"features": "FP32[16]"}
    outputs = {"sum": "FP32[1]"}

    def __init__(self):
        self.model = models.Noop()

    def predict_batch(self, features):
        return self.model.predict_array(features)


class NoopUntyped:
    def __init__(self):
        self.model = models.Noop()

    def predict_batch(self, items):
        return self.model.predict_batch([item["features"] for item in items])


class Sleep(Noop):
    def __init__(self):
        self.model = models.Sleep()


class Digits(Noop):
    inputs = {"features": "FP32[64]"}
    outputs = {"scores": "FP32[10]"}

    def __init__(self):
        self.model = models.Digits()


class Fault(NoopUntyped):
    def __init__(self):
        self.model = models.Fault()


class Image:
    """Looks at the corner of each image: what is left is the way of the bytes to the model."""

    inputs = {"image": "FP32[3,224,224]"}
    outputs = {"corner": "FP32[3]"}

    def predict_batch(self, image):
        return image[:, :, 0, 0]


class Mean:
    """The mean of each image."""

    inputs = {"input": "FP32[3,224,224]"}
    outputs = {"mean": "FP32[1]"}

    def predict_batch(self, input):
        return input.reshape(len(input), -1).mean(axis=1, keepdims=True)


class Ticks:
    """Counts, at the pace and to the number that the item says."""

    async def stream(self, item):
        for tick in range(item["count"]):
            yield {"tick": tick}
            await asyncio.sleep(item["every"])
