"""Holds the server to its own OpenAPI document: schemathesis asks for whatever the document allows, and for what it forbids.

    JITNEY_BIN=target/debug/jitney target/clients/venv/bin/python tests/clients/test_openapi.py [ARGUMENT]...

The arguments go to schemathesis, as `--seed 7` or `--max-examples 200`.
"""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "hostile"))

from served import ROOT, Served  # noqa: E402

# Typed and untyped, one input and several, with streams and without.
MODELS = {
    "digits": "examples/digits",
    "mixed": "echo:a=FP32[2],b=BOOL[2,2],c=BYTES",
    "several": "echo:FP32[1],results=3",
    "count": "tests/clients/models/count.py:Count",
    "asked": "tests/clients/models/asked.py:Asked",
}


def main():
    sources = [f"{name}={source}" for name, source in MODELS.items()]
    with Served(sources, "--python", sys.executable, log="warn") as server:
        url = f"http://127.0.0.1:{server.port}/openapi.json"
        has_every_model(json.loads(server.ask("GET", "/openapi.json").body))
        ran = subprocess.run([*schemathesis(), "run", url, "--checks", "all", *(sys.argv[1:] or DEFAULTS)], cwd=ROOT)
        lives = server.ask("GET", "/v2/health/ready").status == 200
        assert lives, "the server is not ready any more"
    sys.exit(ran.returncode)


DEFAULTS = ("--max-examples", "30", "--seed", "1", "--request-timeout", "20", "--no-color")


def schemathesis():
    program = Path(sys.executable).with_name("schemathesis")
    return [str(program), "--config-file", str(HERE / "schemathesis.toml")]


def has_every_model(document):
    for name in MODELS:
        for rest in ("", "/batch", "/stream"):
            path = f"/predict/{name}{rest}"
            assert path in document["paths"], f"{path} is not in the document"


if __name__ == "__main__":
    main()
