"""Typed models: what they are given is in their names."""

import os
import time

import numpy


class Sum:
    inputs = {"x": "FP32[16]"}
    outputs = {"sum": "FP32", "rows": "INT64"}

    def predict_batch(self, x):
        return {"rows": numpy.full(len(x), len(x)), "sum": x.sum(axis=1)}


class RowByRow:
    inputs = {"x": "FP32[16]"}
    outputs = {"sum": "FP32"}

    def predict(self, x):
        if x[0] < 0:
            raise ValueError("negative")
        return x.sum()


class Pictures:
    inputs = {"pixels": "FP32[3,224,224]"}
    outputs = {"negative": "FP32[3,224,224]"}

    def predict_batch(self, pixels):
        return -pixels


class Texts:
    inputs = {"text": "BYTES", "times": "INT32"}
    outputs = {"text": "BYTES"}

    def predict_batch(self, text, times):
        return [one * count for one, count in zip(text, times)]


class Special:
    """Values that JSON cannot say pass bit by bit."""

    inputs = {"x": "FP64"}
    outputs = {"x": "FP64"}

    def predict_batch(self, x):
        return x


class Vast:
    """As many bytes as the first element says."""

    inputs = {"size": "INT64"}
    outputs = {"y": "UINT8[-1]"}

    def predict_batch(self, size):
        return numpy.zeros((len(size), size[0]), "u1")


class Wrong:
    """Does what the first element says."""

    inputs = {"x": "FP32[2]"}
    outputs = {"y": "FP32[2]"}

    def predict_batch(self, x):
        what = int(x[0, 0])
        return [x, x[:-1], numpy.delete(x, len(x) // 2, 0), None, {"z": x}, x[:, :1], x.astype("c8"), "text"][what]


class Mischief:
    """Does what the first element says, in a row of 0 nothing."""

    inputs = {"x": "FP32[2]"}
    outputs = {"y": "FP32[2]"}

    def predict_batch(self, x):
        for what in x[:, 0]:
            if what == 1:
                os._exit(3)
            if what == 2:
                time.sleep(3600)
        return x
