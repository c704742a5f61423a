"""Asks both services the same and expects the same answers; then shows what one bad item costs in each.

    python check.py [http://127.0.0.1:8080]

The address is that of `jitney serve flowers=examples/from_fastapi/after.py:Flowers`. The FastAPI service is started here.
"""

import contextlib
import http.client
import json
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import uvicorn
from before import app
from sklearn.datasets import load_iris

TIMEOUT_S = 30
TOGETHER = 8


def main():
    after = f"{sys.argv[1] if len(sys.argv) > 1 else 'http://127.0.0.1:8080'}/predict/flowers"
    flowers = [{"features": row} for row in load_iris().data.tolist()]
    with fastapi() as before:
        problems = check_answers(before, after, flowers)
        one_bad = [*flowers[: TOGETHER - 1], {"features": ["long", "wide", "long", "wide"]}]
        print(f"{TOGETHER} at once, one of them no flower:")
        print(f"  before: {statuses(before, one_bad)}")
        got = statuses(after, one_bad)
        print(f"  after:  {got}")
        if got != [200] * (TOGETHER - 1) + [500]:
            problems.append("expected the bad item to fail alone")
    for problem in problems:
        print(f"failed: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


def check_answers(before, after, flowers):
    with ThreadPoolExecutor(TOGETHER) as pool:
        old = list(pool.map(lambda flower: post(before, flower), flowers))
        new = list(pool.map(lambda flower: post(after, flower), flowers))
    differing = [(flower, a, b) for flower, a, b in zip(flowers, old, new) if a != b or a[0] != 200]
    print(f"{len(flowers) - len(differing)} of {len(flowers)} answers are the same, such as {json.dumps(new[0][1])}")
    return [f"{flower}: before {a}, after {b}" for flower, a, b in differing[:5]]


def statuses(url, items):
    """The status of each, asked at the same time."""
    together = threading.Barrier(len(items))

    def ask(item):
        together.wait()
        return post(url, item)[0]

    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(ask, items))


def post(url, item):
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request("POST", address.path, json.dumps(item).encode(), {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read().decode()
        return response.status, json.loads(text) if response.status == 200 else text


@contextlib.contextmanager
def fastapi():
    """The service of before.py on a free port, for as long as it is needed."""
    listener = socket.create_server(("127.0.0.1", 0))
    # Its tracebacks would say nothing new here.
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise SystemExit("the FastAPI service did not start")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/predict"
    finally:
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main()
