"""Triton's `perf_analyzer`: a profile of the digits model over each protocol, and what it counts."""

import csv
import subprocess
import tempfile
from pathlib import Path

from suite import Skipped, Suite
from world import tools

SUITE = Suite("perf_analyzer")
REQUESTS = 600
SYSTEM_LIBRARIES = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/usr/lib64"]
LOADER = "ld-linux-x86-64.so.2"


def program():
    """The command line that starts it, by the loader of its own libraries where it has some."""
    folder = tools() / "perf_analyzer"
    binary, libraries = folder / "bin" / "perf_analyzer", folder / "lib"
    if not binary.exists():
        raise Skipped("perf_analyzer is not installed: see tests/clients/fetch.py")
    if not libraries.exists():
        return [str(binary)]
    return [str(libraries / LOADER), "--library-path", ":".join([str(libraries), *SYSTEM_LIBRARIES]), str(binary)]


def profile(url, protocol, model, *more):
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        command = [
            *program(),
            "-m",
            model,
            "-u",
            url,
            "-i",
            protocol,
            f"--request-count={REQUESTS}",
            "-f",
            str(table),
            *more,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        with table.open() as file:
            rows = list(csv.DictReader(file))
    return done.stdout, rows


CASES = {
    "HTTP": ("http", "digits", "--concurrency-range=4"),
    "gRPC": ("grpc", "digits", "--concurrency-range=4"),
    "gRPC, asynchronous": ("grpc", "digits", "--concurrency-range=8", "--async"),
    "HTTP, asynchronous": ("http", "digits", "--concurrency-range=8", "--async"),
    "gRPC, on streams": ("grpc", "digits", "--concurrency-range=4", "--streaming"),
    "HTTP, batches": ("http", "digits", "--concurrency-range=2", "-b", "8"),
    "gRPC, JSON-free compression": ("grpc", "digits", "--concurrency-range=2", "--grpc-compression-algorithm=gzip"),
    "HTTP, JSON": (
        "http",
        "digits",
        "--concurrency-range=2",
        "--input-tensor-format=json",
        "--output-tensor-format=json",
    ),
    "gRPC, at a rate": ("grpc", "digits", "--request-rate-range=300"),
}


@SUITE.over(CASES)
def profiles(world, case):
    protocol, model, *more = case
    failed = world.metrics()
    said, rows = profile(world.http_url if protocol == "http" else world.grpc_url, protocol, model, *more)
    assert len(rows) == 1, f"{rows}\n{said}"
    assert float(rows[0]["Inferences/Second"]) > 0, rows
    assert "failed" not in said.lower(), said
    after = world.metrics()
    codes = {labels.get("code") for name, labels, _ in after.samples if name == "jitney_requests_total"}
    for code in codes - {"ok", None}:
        grown = after.sum("jitney_requests_total", model=model, code=code) - failed.sum(
            "jitney_requests_total", model=model, code=code
        )
        assert grown == 0 or code == "cancelled", f"{grown:.0f} requests ended with {code}\n{said}"
