"""The servers that the clients talk to."""

import os
import re
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "hostile"))

import wire  # noqa: E402
from served import ROOT, Metrics, Served, wait_for  # noqa: E402
from wire import ask  # noqa: E402

__all__ = ["DATATYPES", "HERE", "ROOT", "Metrics", "World", "ask", "kserve", "tools", "wait_for", "wire"]

DATATYPES = "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 BF16 BYTES".split()

# An echo of each datatype, with rows of any length, has the name of the type in small letters.
ECHOES = {datatype.lower(): f"echo:{datatype}[-1]" for datatype in DATATYPES}
MODELS = {
    **ECHOES,
    "mixed": "echo:a=FP32[2],b=INT64[-1],c=BYTES[1]",
    "image": "echo:FP32[3,224,224]",
    "mean": "echo:FP32[3,8,8],op=mean",
    "whole": "echo:UINT8[-1],batch=none",
    "slow": "echo:FP32[1],call_ms=300",
    "faulty": "echo:FP32[2],faulty=true,hang_ms=60000",
    "digits": "examples/digits",
    "count": "tests/clients/models/count.py:Count",
    "tokens": "tests/clients/models/count.py:Tokens",
    "asked": "tests/clients/models/asked.py:Asked",
}
# One row at a time, so that there is a queue to stand in.
NARROW = 'max_batch = 1\nqueue = 64\n[echo]\ninputs = ["FP32[1]"]\ncall_ms = 150\n'


class World(Served):
    """A server with both protocols, each on a port of its own, or both on one."""

    def __init__(self, models=None, *flags, shared_port=False, sources=(), **options):
        self.place = tempfile.TemporaryDirectory(prefix="jitney-clients-")
        narrow = Path(self.place.name) / "narrow"
        narrow.mkdir()
        (narrow / "model.toml").write_text(NARROW)
        named = {**MODELS, "narrow": narrow} if models is None else models
        sources = [*(f"{name}={source}" for name, source in named.items()), *sources]
        grpc = "127.0.0.1:0"
        super().__init__(sources, "--grpc", grpc, "--python", sys.executable, *flags, **options)
        self.grpc_port = self.port if shared_port else self._grpc_port()

    def __exit__(self, *_):
        super().__exit__()
        self.place.cleanup()

    def _grpc_port(self):
        found = re.search(r"grpc=127\.0\.0\.1:(\d+)", self.ready_line)
        assert found, f"expected a ready line with grpc=, got {self.ready_line!r}"
        return int(found[1])

    @property
    def http_url(self):
        return f"127.0.0.1:{self.port}"

    @property
    def grpc_url(self):
        return f"127.0.0.1:{self.grpc_port}"

    def counted(self, code, model):
        """How many requests to a model ended with that code."""
        return self.metrics().sum("jitney_requests_total", model=model, code=code)


def tools():
    """Where the clients that are programs are."""
    return Path(os.environ.get("JITNEY_CLIENTS") or ROOT / "target" / "clients" / "tools")


def kserve(which, world):
    """The command that runs the checks of KServe's clients, whose messages cannot be loaded beside Triton's."""
    return sys.executable, str(HERE / "kserve_clients.py"), which, str(world.port), str(world.grpc_port)
