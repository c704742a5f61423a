"""Reads a model's results as they come, as server-sent events. Needs nothing but Python.

    python3 client.py TEXT [--url http://127.0.0.1:8080] [--check]

Prints each word as it comes. `--check` sends requests whose answers are known instead, and exits with 1 where one is not what it must be.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 30
TEXT = "a shared taxi leaves when it is full"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", nargs="?", default=TEXT)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--check", action="store_true", help="check the answers to requests whose answers are known")
    options = parser.parse_args()
    if options.check:
        sys.exit(check(options.url))
    for kind, data in events(f"{options.url}/predict/words/stream", {"text_input": options.text}):
        if kind == "message" and "prediction" in data:
            print(data["prediction"], end=" ", flush=True)
        else:
            print(f"\n{data}")


def events(url, body):
    """The events of a stream: what each is called, and its JSON. Leaving the loop early ends the model's work."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        kind, data = "message", []
        for line in response:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                data.append(value)
            elif not name and data:
                yield kind, json.loads("\n".join(data))
                kind, data = "message", []


def check(url):
    """The number of kinds of problems found."""
    words = TEXT.split()
    item = {"text_input": TEXT, "pause": 0.01}
    problems = []

    predictions = [("message", {"prediction": word}) for word in words]
    got = list(events(f"{url}/predict/words/stream", item))
    if got != [*predictions, ("end", {"results": len(words)})]:
        problems.append(f"the words and an end, got {got}")

    got = [data.get("text_output") for _, data in events(f"{url}/v2/models/words/generate_stream", item)]
    if got != words:
        problems.append(f"the words as Triton writes them, got {got}")

    for _, first in events(f"{url}/predict/words/stream", {"text_input": "so " * 1_000_000, "pause": 0}):
        if first != {"prediction": "so"}:
            problems.append(f"the first of many words, got {first}")
        break

    for wrong, text in [({"text_input": 5}, "AttributeError"), ({}, "KeyError")]:
        try:
            problems.append(f"{text}, got {list(events(f'{url}/predict/words/stream', wrong))}")
        except urllib.error.HTTPError as error:
            answer = json.load(error)
            if error.code != 500 or text not in answer["error"]:
                problems.append(f"{text}, got {error.code}: {answer}")

    print(f"{5 - len(problems)} of 5 streams are as they must be")
    for problem in problems:
        print(f"failed: expected {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    main()
