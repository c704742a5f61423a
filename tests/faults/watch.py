"""A server with the faulty models under watch: what ran, which processes there are, and what is left over."""

import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "hostile"))

from served import Served, wait_for  # noqa: E402
from wire import Client, request  # noqa: E402

PATIENCE_S = 30
# A machine that builds something else meanwhile starts an interpreter in seconds.
START_S = 15
# Longer than any item is held at a gate, however slow the machine is, and shorter than the patience of a client.
RUN_LIMIT_S = 20


class Watched(Served):
    """Serves classes of `faulty.py` by their names in small letters, beside an echo that must be well all the time. `settings` are the
    lines of each model's `model.toml`, by its class."""

    def __init__(self, *classes, flags=None, extra=(), settings=None, **options):
        self.place = tempfile.TemporaryDirectory(prefix="jitney-faults-")
        self.path = Path(self.place.name)
        self.ledger_path = self.path / "ledger"
        self.ledger_path.touch()
        self.classes = classes
        sources = []
        for name in classes:
            folder = self.path / name.lower()
            folder.mkdir()
            shutil.copy(HERE / "faulty.py", folder / "faulty.py")
            lines = ['file = "faulty.py"', f'class = "{name}"', (settings or {}).get(name, "")]
            (folder / "model.toml").write_text("\n".join(lines) + "\n")
            sources.append(str(folder))
        defaults = {
            "--max-batch": "8",
            "--run-limit-ms": str(RUN_LIMIT_S * 1000),
            "--drain-ms": "10000",
            **(flags or {}),
        }
        super().__init__(
            [*sources, "echo:FP32[4]"],
            *itertools.chain(*defaults.items()),
            *extra,
            env={"FAULTS_LEDGER": str(self.ledger_path)},
            **options,
        )

    def __exit__(self, *_):
        super().__exit__()
        wait_for(lambda: not self.marked(), 10, lambda: f"left after the end: {self.marked()}")
        self.place.cleanup()

    # What the models wrote down.

    def ledger(self):
        return [line.split() for line in self.ledger_path.read_text().splitlines()]

    def worker_that_ran(self, item):
        return next(int(line[2]) for line in self.ledger() if line[:2] == ["ran", str(item["id"])])

    def runs(self):
        """How often each item was run."""
        return Counter(int(line[1]) for line in self.ledger() if line[0] == "ran")

    def noted(self, word):
        return [line[1] if len(line) > 1 else "" for line in self.ledger() if line[0] == word]

    # Processes.

    def marked(self):
        """Every process that was started for this server, wherever it went: those with the ledger in their environment."""
        found = {}
        word = f"FAULTS_LEDGER={self.ledger_path}".encode()
        for path in Path("/proc").iterdir():
            try:
                if path.name.isdecimal() and word in (path / "environ").read_bytes().split(b"\0"):
                    found[int(path.name)] = (path / "cmdline").read_bytes()[:40]
            except OSError:
                pass
        return found

    def children(self):
        """The state of each child of the server."""
        states = {}
        for path in Path("/proc").iterdir():
            try:
                fields = (path / "stat").read_text().rsplit(")", 1)[1].split()
            except (OSError, IndexError):
                continue
            if path.name.isdecimal() and int(fields[1]) == self.process.pid:
                states[int(path.name)] = fields[0]
        return states

    def status(self, model):
        models = self.ask("GET", "/status").json()["models"]
        return next(found for found in models if found["name"] == model)

    def workers(self, model):
        return [worker["pid"] for worker in self.status(model).get("workers", []) if worker.get("pid")]

    def kill_worker(self, model, at=0):
        os.kill(self.workers(model)[at], signal.SIGKILL)

    # Requests.

    def begin(self, model, item, headers=(), timeout=PATIENCE_S, path="/predict/{}"):
        """A request that is under way."""
        client = Client(self.port, timeout)
        return client.send(request("POST", path.format(model), json.dumps(item), headers))

    def run(self, model, item, **more):
        return finish(self.begin(model, item, **more))

    def gauge(self, name, model):
        return self.metrics().sum(f"jitney_{name}", model=model)

    def open(self, gate):
        (self.path / gate).touch()

    def hold(self, model, ids):
        """Keeps every worker of the model busy, so that what is sent behind that queues up and leaves together: the answers to come, and
        the gates to open for them."""
        held = []
        for _ in self.workers(model):
            id = next(ids)
            held.append((self.begin(model, {"id": id, "do": "gate", "gate": f"gate{id}"}), f"gate{id}"))
            wait_for(lambda id=id: self.runs()[id] == 1, START_S)
        return held

    def release(self, held):
        for client, gate in held:
            self.open(gate)
            assert finish(client).status == 200

    def received(self, model):
        return self.gauge("received_items_total", model)

    def send_behind(self, model, items, ids, headers=lambda item: ()):
        """Sends the items while every worker is held: what is to be released, and the requests."""
        held, before = self.hold(model, ids), self.received(model)
        sent = [self.begin(model, item, headers(item)) for item in items]
        wait_for(lambda: self.received(model) == before + len(items), START_S)
        return held, sent

    def together(self, model, items, ids, headers=lambda item: ()):
        """Runs the items in as few batches as can be: their answers."""
        held, sent = self.send_behind(model, items, ids, headers)
        self.release(held)
        return [finish(client) for client in sent]


class Wellness:
    """What the server was like before, so that afterwards one can say whether it is as well as it was."""

    RSS_MIB = 32

    def __init__(self, watched):
        self.watched = watched
        self.names = [name.lower() for name in watched.classes if name not in ("Gated", "Fragile")]
        for _ in range(16):
            self.answers()
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: watched.predict("echo", 1, 2, 3, 4), range(64)))
        wait_for(self.all_there, START_S)
        self.rss, self.descriptors, self.children = (
            watched.rss_mib(),
            watched.descriptors(),
            len(watched.children()),
        )

    def answers(self):
        assert self.watched.ask("GET", "/v2/health/live").status == 200, "not live"
        ready = self.watched.ask("GET", "/v2/health/ready")
        assert ready.status == 200, f"not ready: {ready.body}"
        echo = promptly(lambda: self.watched.predict("echo", 1, 2, 3, 4))
        assert echo.status == 200, f"the echo answers {echo.status}"

    def all_there(self):
        """Every worker is ready."""
        states = [worker["state"] for name in self.names for worker in self.watched.status(name)["workers"]]
        return all(state in ("idle", "busy") for state in states)

    def check(self):
        """Everything that must hold behind every check."""
        ended = self.watched.process.poll()
        assert ended is None, f"the server has ended with {ended}: {self.watched.log()[-2000:]}"
        self.answers()
        wait_for(self.all_there, START_S, lambda: "a worker was not replaced")
        for name in self.names:
            item = [0.5, 1] if name == "typed" else {"id": 0}
            answer = promptly(lambda name=name, item=item: self.watched.run(name, item), START_S)
            assert answer.status == 200, f"{name} answers {answer.status} {answer.body}"
        grown = self.watched.rss_mib() - self.rss
        assert grown <= self.RSS_MIB, f"resident memory grew by {grown:.0f} MiB"
        wait_for(self.nothing_left, 5, self.left)
        assert "panicked" not in self.watched.log()

    def nothing_left(self):
        children = self.watched.children()
        return (
            len(children) == self.children
            and "Z" not in children.values()
            and self.watched.descriptors() <= self.descriptors
        )

    def left(self):
        descriptors = self.watched.descriptors() - self.descriptors
        return f"{descriptors} descriptors left over; children {self.watched.children()}, {self.children} before"


def finish(client):
    """The answer to a request that is under way."""
    with client:
        answer = client.answer()
    assert answer is not None, "the server closed without an answer"
    return answer


def expect(answer, status, code=None, words=""):
    got = answer.code
    assert (answer.status, got) == (status, code), f"expected {status} {code}, got {answer.status} {answer.body[:300]}"
    assert words in answer.body.decode(), f"expected {words!r} in {answer.body[:300]}"


def expect_value(answer, item):
    """The answer to this very item."""
    assert answer.status == 200, f"{item}: {answer.status} {answer.body[:300]}"
    assert answer.json() == {"prediction": {"v": item["id"]}}, f"{item} got {answer.body[:300]}"


def promptly(ask, within_s=1, tries=5):
    """An answer that came within that time, and in time for its server. A machine that is busy with something else may hold up any one of
    them, but not all: only a server that is held up itself does that."""
    late = []
    for _ in range(tries):
        answer = ask()
        if answer.took_s < within_s and answer.status != 504:
            return answer
        late.append(f"{answer.status} after {answer.took_s:.2f} s")
    raise AssertionError(f"no answer came within {within_s} s: {late}")


def took(function, *args, **kwargs):
    start = time.monotonic()
    return function(*args, **kwargs), time.monotonic() - start
