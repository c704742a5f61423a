"""Two texts at once on one WebSocket, and a third that is cancelled. Needs the package `websockets`.

    python3 chat.py [--url ws://127.0.0.1:8080]

Exits with 1 where the answers are not those of the requests.
"""

import argparse
import asyncio
import json
import sys

from websockets.asyncio.client import connect

TEXTS = {"a": "one word after the other", "b": "and these are between them"}


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="ws://127.0.0.1:8080")
    url = parser.parse_args().url.replace("http", "ws", 1)
    async with connect(f"{url}/v2/models/words/stream") as socket:
        for id, text in TEXTS.items():
            await socket.send(json.dumps({"id": id, "item": {"text_input": text}}))
        endless = {"id": "c", "item": {"text_input": "so " * 100_000, "pause": 0.2}}
        await socket.send(json.dumps(endless))
        await socket.send(json.dumps({"cancel": "c"}))
        answers = await read(socket, len(TEXTS) + 1)
    expected = {id: text.split() for id, text in TEXTS.items()}
    got = {id: words for id, words in answers.items() if id in TEXTS}
    if got != expected or answers["c"][-1] != "cancelled":
        sys.exit(f"failed: expected {expected} and a cancelled request, got {answers}")


async def read(socket, requests):
    """The words of each request, and the code of its failure where it has failed."""
    answers = {}
    while requests:
        answer = json.loads(await asyncio.wait_for(socket.recv(), 30))
        print(answer)
        words = answers.setdefault(answer["id"], [])
        words.extend(answer[key] for key in ("prediction", "code") if key in answer)
        requests -= answer["final"]
    return answers


if __name__ == "__main__":
    asyncio.run(main())
