"""Models that answer one request many times."""

import time

import numpy as np


class Count:
    """Counts from 0 to `upto` - 1, and fails on the way where it is told to."""

    inputs = {"upto": "INT32[1]", "fail_at": "INT32[1]", "pause_ms": "INT32[1]"}
    outputs = {"value": "INT32[1]"}

    def stream(self, upto, fail_at, pause_ms):
        for value in range(int(upto[0])):
            if value == int(fail_at[0]):
                raise ValueError(f"told to fail at {value}")
            time.sleep(int(pause_ms[0]) / 1e3)
            yield np.array([value], dtype=np.int32)


class Tokens:
    """Says the words of a text again, one by one."""

    inputs = {"text_input": "BYTES[1]"}
    outputs = {"text_output": "BYTES[1]"}

    async def stream(self, text_input):
        for word in text_input[0].split():
            yield np.array([word], dtype=object)
