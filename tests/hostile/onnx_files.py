"""ONNX files that nobody should have to load, written field by field: there is no ONNX package here, and none would write these."""

import struct

FLOAT, INT64, BOOL = 1, 7, 9


def varint(value):
    value &= (1 << 64) - 1
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def number(field, value):
    return varint(field << 3) + varint(value)


def bytes_(field, value):
    value = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(value)) + value


def value_info(name, kind, dims):
    shape = b"".join(bytes_(1, number(1, dim) if isinstance(dim, int) else bytes_(2, dim)) for dim in dims)
    tensor = number(1, kind) + bytes_(2, shape)
    return bytes_(1, name) + bytes_(2, bytes_(1, tensor))


def node(op, inputs, outputs, *attributes):
    names = b"".join(bytes_(1, name) for name in inputs) + b"".join(bytes_(2, name) for name in outputs)
    return names + bytes_(4, op) + b"".join(bytes_(5, attribute) for attribute in attributes)


def graph(nodes, inputs, outputs, initializers=()):
    parts = [bytes_(1, one) for one in nodes] + [bytes_(2, "g")] + [bytes_(5, one) for one in initializers]
    return b"".join(parts + [bytes_(11, one) for one in inputs] + [bytes_(12, one) for one in outputs])


def model(graph_bytes):
    return number(1, 8) + bytes_(8, number(2, 17)) + bytes_(7, graph_bytes)


def constant(name, kind, dims, data):
    return b"".join(number(1, dim) for dim in dims) + number(2, kind) + bytes_(8, name) + bytes_(9, data)


def added(initializer):
    """y = x + w, with this w."""
    return model(
        graph(
            [node("Add", ["x", "w"], ["y"])],
            [value_info("x", FLOAT, ["n", 2])],
            [value_info("y", FLOAT, ["n", 2])],
            [initializer],
        )
    )


def external(location, offset=0, length=8):
    """A model whose data is said to be in another file."""
    entries = [("location", str(location)), ("offset", str(offset)), ("length", str(length))]
    fields = b"".join(bytes_(13, bytes_(1, key) + bytes_(2, value)) for key, value in entries)
    return added(number(1, 2) + number(2, FLOAT) + bytes_(8, "w") + fields + number(14, 1))


def huge_constant():
    """A constant of 2^40 elements that has none of them."""
    return added(constant("w", FLOAT, [1 << 20, 1 << 20], b""))


def nested(depth):
    """Graphs within graphs."""
    inner = b""
    for _ in range(depth):
        inner = bytes_(1, bytes_(5, bytes_(6, inner)))
    return model(inner)


def endless_loop():
    """y = x behind a loop that never ends."""
    body = graph(
        [node("Identity", ["go"], ["go_on"]), node("Identity", ["v"], ["v_out"])],
        [value_info("i", INT64, []), value_info("go", BOOL, []), value_info("v", FLOAT, ["n", 2])],
        [value_info("go_on", BOOL, []), value_info("v_out", FLOAT, ["n", 2])],
    )
    loop = node("Loop", ["most", "true", "x"], ["y"], bytes_(1, "body") + bytes_(6, body) + number(20, 5))
    most = constant("most", INT64, [], struct.pack("<q", 2**63 - 1))
    true = constant("true", BOOL, [], b"\x01")
    return model(graph([loop], [value_info("x", FLOAT, ["n", 2])], [value_info("y", FLOAT, ["n", 2])], [most, true]))


def large_output():
    """y = x expanded to 2^40 elements."""
    shape = constant("s", INT64, [2], struct.pack("<qq", 1 << 20, 1 << 20))
    return model(
        graph(
            [node("Expand", ["x", "s"], ["y"])],
            [value_info("x", FLOAT, [1, 1])],
            [value_info("y", FLOAT, ["a", "b"])],
            [shape],
        )
    )
