"""Values of every datatype, with those at its ends."""

import ml_dtypes
import numpy as np


def integers(dtype):
    limits = np.iinfo(dtype)
    return np.array([[limits.min, limits.max, 0, 1, limits.max // 3]], dtype=dtype)


def bits(dtype, unsigned, *patterns):
    """Floating-point numbers by their bits, which keeps what NaN carries."""
    return np.array([patterns], dtype=unsigned).view(dtype)


def texts(*elements):
    array = np.empty((1, len(elements)), dtype=object)
    array[0, :] = elements
    return array


PLAIN = {
    "BOOL": np.array([[True, False, False, True, True]]),
    **{
        np.dtype(dtype).name.upper(): integers(dtype)
        for dtype in (np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32, np.int64)
    },
    "FP16": np.array([[0.0, -0.0, 1.5, 65504, 6e-8]], dtype=np.float16),
    "FP32": np.array([[0.0, -0.0, 0.1, 3.4028235e38, 1e-45]], dtype=np.float32),
    "FP64": np.array([[0.0, -0.0, 0.1, 1.7976931348623157e308, 5e-324]], dtype=np.float64),
    "BF16": np.array([[0.0, -0.0, 1.5, 3e38, 1e-40]], dtype=ml_dtypes.bfloat16),
    "BYTES": texts(b"", b"a", "h\u00e4\u00df\u4e16\u754c\U0001f600".encode(), b'"\\\n\x7f', b"x" * 5000),
}
# What only the binary form can say.
BITS = {
    "FP16": bits(np.float16, np.uint16, 0x7C00, 0xFC00, 0x7E01, 0xFDAA, 0x0001),
    "FP32": bits(np.float32, np.uint32, 0x7F800000, 0xFF800000, 0x7FC00001, 0xFFBADBAD, 0x00000001),
    "FP64": bits(np.float64, np.uint64, 0x7FF << 52, 0xFFF << 52, 0x7FF8000000000001, 0xFFF0123456789ABC, 1),
    "BF16": bits(ml_dtypes.bfloat16, np.uint16, 0x7F80, 0xFF80, 0x7FC1, 0xFFAA, 0x0001),
    "BYTES": texts(bytes(range(256)), b"\xff\xfe", b"\0", b"\xc0\xaf", b"\xed\xa0\x80"),
}


def same_bits(got, wanted):
    """Whether two arrays have the same type, shape and bytes."""
    assert got.shape == wanted.shape, f"expected the shape {wanted.shape}, got {got.shape}"
    if wanted.dtype == object:
        encoded = [value.encode() if isinstance(value, str) else bytes(value) for value in got.ravel()]
        assert encoded == list(wanted.ravel()), f"expected {wanted}, got {got}"
        return
    assert got.dtype == wanted.dtype, f"expected {wanted.dtype}, got {got.dtype}"
    assert got.tobytes() == wanted.tobytes(), f"expected {wanted}, got {got}"
