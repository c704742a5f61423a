"""A `jitney serve` under test: started, asked how it is, stopped."""

import os
import re
import resource
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wire import Client, ask

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 30


def binary():
    return os.environ.get("JITNEY_BIN") or str(ROOT / "target" / "debug" / "jitney")


class Served:
    """Serves the sources on a free port, or on that one, until the block ends. `config` is the text of a file for `--config`, `env` what
    the environment has beside what it has anyway."""

    def __init__(self, sources, *flags, config="", descriptors=None, wait=True, log="info", port=0, env=None):
        self.folder = tempfile.TemporaryDirectory(prefix="jitney-hostile-")
        path = Path(self.folder.name) / "jitney.toml"
        path.write_text(config)
        self.log_path = Path(self.folder.name) / "log"
        address = f"127.0.0.1:{port}"
        command = [binary(), "serve", *sources, "--http", address, "--config", str(path), "--log", log, *flags]
        limit = None
        if descriptors is not None:

            def limit():
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        with self.log_path.open("wb") as log_file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log_file,
                cwd=ROOT,
                preexec_fn=limit,
                # Reading the debugger's tables for a trace takes a hundred megabytes, which are not the server's.
                env={**os.environ, "RUST_BACKTRACE": "0", **(env or {})},
            )
        self.ready_line = ""
        self.port = self._port_of_ready_line() if wait else self._port_of_log()

    def _port_of_ready_line(self):
        assert self.process.stdout is not None
        line = self.ready_line = self.process.stdout.readline().decode()
        found = re.search(r"http=127\.0\.0\.1:(\d+)", line)
        assert found, f"expected a ready line, got {line!r}\n{self.log()}"
        return int(found[1])

    def _port_of_log(self):
        found = wait_for(lambda: re.search(r"listening http=127\.0\.0\.1:(\d+)", self.log()), READY_WITHIN_S)
        return int(found[1])

    def log(self):
        return self.log_path.read_text(errors="surrogateescape")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self.folder.cleanup()

    def ask(self, *args, **kwargs):
        return ask(self.port, *args, **kwargs)

    def predict(self, model, *values, headers=(), batch=False):
        item = "[" + ",".join(str(value) for value in values) + "]"
        return self.ask("POST", f"/predict/{model}" + "/batch" * batch, item, headers)

    def metrics(self):
        return Metrics(self.ask("GET", "/metrics").body.decode())

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def exit_code(self, within):
        return self.process.wait(within)

    def rss_mib(self):
        return self._memory_mib("VmRSS")

    def peak_rss_mib(self, reset=False):
        """The most since the last time it was reset, or what there is now."""
        if reset:
            Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self._memory_mib("VmHWM")

    def _memory_mib(self, field):
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{field}:\s+(\d+) kB", text)
        return int(found[1]) / 1024 if found else 0.0

    def descriptors(self):
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def threads(self):
        # The thread of an instance that was given up ends when it can, which may be with the next batch of its model.
        return len([name for name in self.thread_names() if not name.startswith("limited")])

    def thread_names(self):
        return sorted(path.read_text().strip() for path in Path(f"/proc/{self.process.pid}/task").glob("*/comm"))

    def cpu_s(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Metrics:
    """One scrape."""

    def __init__(self, text):
        self.samples = []
        for line in text.splitlines():
            found = re.match(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if found and not line.startswith("#"):
                labels = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
                self.samples.append((found[1], labels, float(found[3])))

    def sum(self, name, **wanted):
        """The sum of the samples that have these labels."""
        fits = lambda labels: all(labels.get(key) == value for key, value in wanted.items())  # noqa: E731
        return sum(value for sample, labels, value in self.samples if sample == name and fits(labels))

    def models(self):
        return sorted({labels["model"] for name, labels, _ in self.samples if name == "jitney_received_items_total"})


class Health:
    """What a server was like before, so that afterwards one can say whether it is as well as it was."""

    RSS_MIB = 32

    def __init__(self, served, largest_body=0):
        self.served = served
        for _ in range(64):
            self.answers()
        # The allocator keeps what large bodies took, for the next ones. That is no leak, so it belongs to what was there before.
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: served.ask("POST", "/predict/echo", b"[" * largest_body), range(16)))
        self.rss, self.descriptors, self.threads = served.rss_mib(), served.descriptors(), served.threads()

    def answers(self):
        with Client(self.served.port) as client:
            assert client.ask("GET", "/v2/health/live").status == 200, "not live"
            ready = client.ask("GET", "/v2/health/ready")
            assert ready.status == 200, f"not ready: {ready.body}"
            answer = client.ask("POST", "/predict/echo", "[1,2,3,4]")
        assert answer.status == 200, f"echo answers {answer.status} {answer.body}"
        assert answer.json() == {"prediction": {"output": [1, 2, 3, 4]}}, answer.body

    def check(self):
        """Everything that must hold behind every check."""
        self.check_running()
        self.answers()
        grown = self.served.rss_mib() - self.rss
        assert grown <= self.RSS_MIB, f"resident memory grew by {grown:.0f} MiB"
        wait_for(lambda: self.served.descriptors() <= self.descriptors, 3, self._left_over)
        wait_for(lambda: self.served.threads() <= self.threads, 3, self._left_over)

    def check_running(self):
        ended = self.served.process.poll()
        assert ended is None, f"the server has ended with {ended}: {self.served.log()[-2000:]}"

    def _left_over(self):
        descriptors, threads = self.served.descriptors() - self.descriptors, self.served.threads() - self.threads
        return f"{descriptors} descriptors and {threads} threads are left over"


def wait_for(condition, within_s, why=lambda: "it did not come about in time"):
    """The first true answer of the condition."""
    end = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, why()
        time.sleep(0.005)
