"""Classifies the held-out images over the wire and says how many were right. Needs nothing but Python.

    python3 client.py [http://127.0.0.1:8080] [--clients 16] [--check]

Each client thread keeps one connection and sends one image at a time: the server does the batching.
Exits with 1 where fewer than 95 % are right. `--check` also asks in every other way the server
offers (a batch, NDJSON, the Open Inference Protocol) and expects the same answers.
"""

import argparse
import http.client
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

SAMPLES = Path(__file__).resolve().parent / "samples"
MIN_ACCURACY = 0.95
TIMEOUT_S = 30
ATTEMPTS = 10


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8080")
    parser.add_argument("--clients", type=int, default=16, help="connections at a time (default 16)")
    parser.add_argument("--check", action="store_true", help="also try the other ways to ask")
    options = parser.parse_args()

    held_out = json.loads((SAMPLES / "heldout.json").read_text())
    images, labels = held_out["images"], held_out["labels"]

    started = time.perf_counter()
    answers = classify(options.url, images, options.clients)
    took = time.perf_counter() - started
    right = sum(answer == label for answer, label in zip(answers, labels))
    print(f"{right} of {len(labels)} right: accuracy {right / len(labels):.4f}")
    print(f"{len(labels) / took:.0f} requests/s from {options.clients} clients")

    problems = check_other_ways(options.url, images, answers) if options.check else []
    if right / len(labels) < MIN_ACCURACY:
        problems.append(f"expected an accuracy of at least {MIN_ACCURACY}, got {right / len(labels):.4f}")
    for problem in problems:
        print(f"failed: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


def classify(url, images, clients):
    """The digit seen in each image, in order."""
    shares = [range(first, len(images), clients) for first in range(clients)]
    answers = [None] * len(images)

    def work(share):
        server = Server(url)
        for index in share:
            answer = server.post("/predict/digits", {"pixels": images[index]})
            answers[index] = best(answer["prediction"]["scores"])

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, shares))
    return answers


def check_other_ways(url, images, expected):
    """What the batch forms and the Open Inference Protocol answer differently from one image at a time."""
    server = Server(url)
    few = images[:20]
    items = [{"pixels": pixels} for pixels in few]
    tensor = {
        "name": "pixels",
        "datatype": "FP32",
        "shape": [len(few), 64],
        "data": [value for pixels in few for value in pixels],
    }
    lines = "\n".join(map(json.dumps, items))
    ways = {
        "/predict/digits/batch": lambda path: scores_of(server.post(path, items)),
        "/predict/digits/batch as NDJSON": lambda _: scores_of(
            server.post("/predict/digits/batch", lines, "application/x-ndjson")
        ),
        "/v2/models/digits/infer": lambda path: rows_of(server.post(path, {"inputs": [tensor]})),
    }
    problems = []
    for way, ask in ways.items():
        got = [best(scores) for scores in ask(way)]
        if got != expected[: len(few)]:
            problems.append(f"{way}: expected {expected[: len(few)]}, got {got}")
        else:
            print(f"{way}: the same answers")
    return problems


def scores_of(results):
    return [result["prediction"]["scores"] for result in results]


def rows_of(response):
    output = response["outputs"][0]
    rows, width = output["shape"]
    return [output["data"][row * width : (row + 1) * width] for row in range(rows)]


def best(scores):
    return max(range(len(scores)), key=scores.__getitem__)


class Server:
    """One keep-alive connection."""

    def __init__(self, url):
        address = urlsplit(url if "//" in url else f"//{url}")
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        self.connection = kind(address.hostname, address.port, timeout=TIMEOUT_S)

    def post(self, path, body, content_type="application/json"):
        """The decoded answer. A refusal (busy, or still loading) says when to come back, and is tried again then."""
        encoded = (body if isinstance(body, str) else json.dumps(body)).encode()
        for _ in range(ATTEMPTS):
            self.connection.request("POST", path, encoded, {"Content-Type": content_type})
            response = self.connection.getresponse()
            text = response.read().decode()
            if response.status == 200:
                return ndjson(text) if is_ndjson(response) else json.loads(text)
            if response.status not in (429, 503):
                break
            time.sleep(float(response.headers.get("Retry-After") or 1))
        raise SystemExit(f"{path} answered {response.status}: {text}")


def is_ndjson(response):
    return "ndjson" in response.headers.get("Content-Type", "")


def ndjson(text):
    return [json.loads(line) for line in text.splitlines() if line.strip()]


if __name__ == "__main__":
    main()
