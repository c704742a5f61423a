"""Handwritten digits once more, by a Python model: a support vector machine of scikit-learn.

    jitney serve digits=examples/digits/model.py:Digits

It takes and gives what the ONNX model beside it does, so the same client asks both. Training takes some milliseconds, so it happens while
the model loads; yours would read its weights there.
"""

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC


class Digits:
    inputs = {"pixels": "FP32[64]"}
    outputs = {"scores": "FP32[10]"}

    def __init__(self):
        digits = load_digits()
        # As in train.py, so that neither model has seen the images that the client sends.
        images, _, labels, _ = train_test_split(
            digits.data, digits.target, test_size=0.25, stratify=digits.target, random_state=0
        )
        self.classifier = SVC(gamma=0.001).fit(images, labels)

    def predict_batch(self, pixels):
        """`pixels` is an array of shape [n, 64]; the scores come back as one of shape [n, 10]."""
        return self.classifier.decision_function(pixels).astype("float32")
