"""Autobahn's suite of conformance tests for WebSockets, on the frames of this server behind an echo, which the suite expects.

Compression is not offered, so its cases are left out.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

from suite import Skipped, Suite
from world import ROOT, tools

SUITE = Suite("Autobahn")
FOLDER = tools() / "autobahn"
RUN = "from autobahntestsuite.wstest import run; run()"


def echo():
    return os.environ.get("JITNEY_WEBSOCKET_ECHO") or str(ROOT / "target" / "debug" / "examples" / "websocket_echo")


@SUITE.check
def every_case(world):
    if not (FOLDER / "python").exists():
        raise Skipped("there is no Python 2 for Autobahn's suite: see tests/clients/fetch.py")
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([echo()], stdout=subprocess.PIPE, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            verdicts = run(Path(folder), server.stdout.readline().strip())
        finally:
            server.kill()
    assert len(verdicts) > 290, f"only {len(verdicts)} cases were run"
    bad = {case: verdict for case, verdict in verdicts.items() if not is_good(verdict)}
    assert not bad, bad


def run(folder, address):
    spec = {
        "outdir": str(folder / "reports"),
        "servers": [{"agent": "jitney", "url": f"ws://{address}"}],
        "cases": ["*"],
        "exclude-cases": ["12.*", "13.*"],
        "exclude-agent-cases": {},
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    command = [str(FOLDER / "python"), "-c", RUN, "-m", "fuzzingclient", "-s", "spec.json"]
    # Options of this Python would mean other things to that one.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**plain, "PYTHONPATH": str(FOLDER / "site")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads((folder / "reports" / "index.json").read_text())["jitney"]


def is_good(verdict):
    return {verdict["behavior"], verdict["behaviorClose"]} <= {"OK", "INFORMATIONAL"}
