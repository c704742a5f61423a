"""Asks the server what kinds of files these are. Needs nothing but Python.

    python3 client.py FILE... [--url http://127.0.0.1:8080] [--check]

Sends several files at a time and prints a line for each. `--check` sends files whose kinds are known instead, and one item that is none,
and exits with 1 where an answer is not what it must be.
"""

import argparse
import base64
import gzip
import io
import json
import sqlite3
import struct
import sys
import tempfile
import time
import urllib.error
import urllib.request
import wave
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENDS = 4096  # All that the model looks at, at either end.
CLIENTS = 8
TIMEOUT_S = 30
ATTEMPTS = 10


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--check", action="store_true", help="check the answers for files whose kinds are known")
    options = parser.parse_args()
    if options.check:
        sys.exit(check(options.url))
    for path, answer in zip(options.files, ask(options.url, [ends(path) for path in options.files])):
        print(f"{path}: {answer['description']} ({answer['type']}, {answer['mime']}, {answer['score']:.2f})")


def ask(url, contents):
    """One request for each, several at a time: the server decides what runs together."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = pool.map(lambda content: post(f"{url}/predict/filetype", item(content)), contents)
        return [answer["prediction"] for answer in answers]


def item(content):
    return {"content": base64.b64encode(content).decode()}


def ends(path):
    """The first and the last bytes of a file; the whole file where it is short."""
    with path.open("rb") as file:
        first = file.read(2 * ENDS)
        size = file.seek(0, io.SEEK_END)
        if size <= 2 * ENDS:
            return first
        file.seek(size - ENDS)
        return first[:ENDS] + file.read()


def post(url, body):
    """The decoded answer. A refusal (busy, or still loading) says when to come back, and is tried again then."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    for _ in range(ATTEMPTS):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                return json.load(response)
        except urllib.error.HTTPError as refusal:
            if refusal.code not in (429, 503):
                raise SystemExit(f"{url} answered {refusal.code}: {refusal.read().decode()}") from None
            time.sleep(float(refusal.headers.get("Retry-After") or 1))
    raise SystemExit(f"{url} refused {ATTEMPTS} times")


def check(url):
    """The number of problems found."""
    known = known_files()
    kinds = [answer["type"] for answer in ask(url, [content for _, content, _ in known])]
    problems = [
        f"{name}: expected {expected}, got {kind}"
        for (name, _, expected), kind in zip(known, kinds)
        if kind != expected
    ]
    print(f"{len(known) - len(problems)} of {len(known)} kinds right")
    problems += check_bad_item(url)
    for problem in problems:
        print(f"failed: {problem}", file=sys.stderr)
    return 1 if problems else 0


def check_bad_item(url):
    """An item that is no base64, between two that are, fails alone."""
    good = item(b"import os\n\n\ndef main():\n    print(os.getcwd())\n\n\nif __name__ == '__main__':\n    main()\n")
    answers = post(f"{url}/predict/filetype/batch", [good, {"content": "!"}, good])
    if [list(answer) for answer in answers] != [["prediction"], ["error", "code"], ["prediction"]]:
        return [f"expected an answer, an error and an answer, got {answers}"]
    print(f"an item that is no file fails alone: {answers[1]['error']}")
    return []


def known_files():
    """Names, contents and kinds: files of this project, and some made on the spot."""
    project = {
        "README.md": "markdown",
        "Cargo.toml": "toml",
        "crates/jitney/src/lib.rs": "rust",
        "crates/jitney-server/src/admin/page.html": "html",
        "examples/digits/client.py": "python",
        "examples/digits/model.onnx": "onnx",
        "examples/digits/samples/heldout.json": "json",
        ".ci/run": "shell",
    }
    made = {
        "a PNG image": (png(), "png"),
        "a WAV sound": (wav(), "wav"),
        "a zip archive": (archive(), "zip"),
        "a gzip file": (gzip.compress(b"the same words over and over " * 1000), "gzip"),
        "an SQLite database": (database(), "sqlite"),
        "this Python": (ends(Path(sys.executable).resolve()), "elf"),
        "nothing": (b"", "empty"),
    }
    return [(name, ends(ROOT / name), kind) for name, kind in project.items()] + [
        (name, content, kind) for name, (content, kind) in made.items()
    ]


def png():
    """A grey ramp of 64 x 64 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(range(0, 256, 4)) for _ in range(64))
    head = struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def wav():
    """A second of a saw-tooth."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"".join(struct.pack("<h", i % 100 * 300) for i in range(8000)))
    return buffer.getvalue()


def archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for number in range(5):
            zipped.writestr(f"notes/{number}.txt", f"note {number}\n" * 200)
    return buffer.getvalue()


def database():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "notes"
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("create table notes (id integer primary key, text text)")
            connection.executemany("insert into notes (text) values (?)", [(f"note {n}",) for n in range(100)])
        return path.read_bytes()


if __name__ == "__main__":
    main()
