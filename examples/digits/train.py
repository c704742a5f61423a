"""Trains the digits model, exports it, and writes the samples.

    python3 -m venv .venv
    .venv/bin/pip install -r requirements-train.txt
    .venv/bin/python train.py

Everything random has a fixed seed and the arithmetic runs on one thread, so the same machine and the same
versions give the same bytes. `--check` measures the committed model instead of making a new one.
"""

import argparse
import json
import os
import warnings
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from scipy.ndimage import affine_transform
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

FOLDER = Path(__file__).resolve().parent
INK = 16  # A pixel counts the inked dots of a 4 x 4 block, so this is its largest value.
HIDDEN = 128
VARIANTS = 24  # Distorted copies of every training image.
MIN_HELD_OUT_ACCURACY = 0.97


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="measure the model that is there; write nothing")
    options = parser.parse_args()

    digits = load_digits()
    train_x, held_x, train_y, held_y = train_test_split(
        digits.data, digits.target, test_size=0.25, stratify=digits.target, random_state=0
    )
    if options.check:
        model = onnx.load(FOLDER / "model.onnx")
    else:
        model = to_onnx(fit(train_x, train_y))
        (FOLDER / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
        write_samples(held_x.astype(int), held_y)

    print(f"training: {len(train_y)} images, accuracy {accuracy(model, train_x, train_y):.4f}")
    held_out = accuracy(model, held_x, held_y)
    print(f"held out: {len(held_y)} images, accuracy {held_out:.4f}")
    if held_out < MIN_HELD_OUT_ACCURACY:
        raise SystemExit(f"expected a held-out accuracy of at least {MIN_HELD_OUT_ACCURACY}")


def fit(images, labels):
    """A small network, trained on distorted copies so that it also reads digits drawn with a mouse."""
    rng = np.random.default_rng(0)
    x = np.concatenate([images] + [distort(images, rng) for _ in range(VARIANTS)])
    y = np.tile(labels, VARIANTS + 1)
    network = MLPClassifier((HIDDEN,), alpha=1e-3, max_iter=30, n_iter_no_change=30, random_state=0)
    with warnings.catch_warnings():
        # The number of passes is chosen; the network need not have converged.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return network.fit(x / INK, y)


def distort(images, rng):
    """Turns, leans, stretches, shifts and thickens each image a little."""
    return np.stack([distort_one(image.reshape(8, 8), rng).ravel() for image in images])


def distort_one(image, rng):
    turn, lean = rng.normal(0, 0.10), rng.normal(0, 0.12)
    stretch = np.diag(rng.normal(1, [0.05, 0.12]))
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = turned @ np.array([[1, 0], [lean, 1]]) @ stretch
    centre = np.array([3.5, 3.5])
    offset = centre - matrix @ (centre + rng.normal(0, [0.2, 0.4]))
    moved = affine_transform(image, matrix, offset, order=1)
    return np.clip(moved * rng.uniform(0.75, 1.4), 0, INK)


def to_onnx(network):
    """The network as a graph of standard operators, with a free batch axis."""
    (w1, w2), (b1, b2) = network.coefs_, network.intercepts_
    constants = {"ink": np.array(INK), "w1": w1, "b1": b1, "w2": w2, "b2": b2}
    graph = helper.make_graph(
        [
            helper.make_node("Div", ["pixels", "ink"], ["scaled"]),
            helper.make_node("Gemm", ["scaled", "w1", "b1"], ["sums"]),
            helper.make_node("Relu", ["sums"], ["hidden"]),
            helper.make_node("Gemm", ["hidden", "w2", "b2"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
        ],
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.producer_name = "jitney examples/digits"
    model.doc_string = "Digits of 8 x 8 pixels. Licence: Apache-2.0 OR MIT."
    onnx.checker.check_model(model, full_check=True)
    return model


def accuracy(model, images, labels):
    (scores,) = ReferenceEvaluator(model).run(None, {"pixels": images.astype(np.float32)})
    return float((scores.argmax(axis=1) == labels).mean())


def write_samples(images, labels):
    """One held-out image of each digit as a request body, one body of the open protocol, and all of them for the client."""
    samples = FOLDER / "samples"
    samples.mkdir(exist_ok=True)
    firsts = [images[np.flatnonzero(labels == digit)[0]].tolist() for digit in range(10)]
    for digit, pixels in enumerate(firsts):
        write_json(samples / f"{digit}.json", {"pixels": pixels})
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [2, 64], "data": firsts[3] + firsts[7]}
    write_json(samples / "infer.json", {"id": "three-and-seven", "inputs": [tensor]})
    write_json(samples / "heldout.json", {"labels": labels.tolist(), "images": images.tolist()})


def write_json(path, value):
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
