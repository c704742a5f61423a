"""schemathesis on the server's own description of itself."""

import os
import subprocess
import sys
from pathlib import Path

from exchanges import MODELS as MODELS_OF_EXCHANGES
from suite import Suite, same
from world import ask

SUITE = Suite("openapi")
# Halves are left out: the numbers that are rounded to the largest of them are read, and are not in the document.
MODELS = {
    name: MODELS_OF_EXCHANGES[name] for name in ("bool", "uint8", "int64", "uint64", "fp32", "fp64", "bytes", "two")
}
HERE = Path(__file__).resolve().parent
# A client that reads an endless answer, or changes the server, is no client of this check.
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,negative_data_rejection"


@SUITE.check
def the_document(world):
    answer = ask(world.port, "GET", "/openapi.json")
    same((answer.status, answer.headers["content-type"]), (200, "application/json"))
    document = answer.json()
    assert document["openapi"].startswith("3."), document["openapi"]
    assert {"/v2/models/{name}/infer", "/predict/two"} <= set(document["paths"]), sorted(document["paths"])


@SUITE.check
def the_page_needs_nothing_from_elsewhere(world):
    answer = ask(world.port, "GET", "/docs")
    same(answer.status, 200)
    page = answer.body.decode()
    for word in ('src="http', 'href="http', "//cdn", "@import"):
        assert word not in page, f"the page of the documentation loads {word}"


@SUITE.check
def schemathesis(world):
    """Whatever the document allows and forbids: no failure of the server, and every answer is one that it describes."""
    program = Path(sys.executable).with_name("schemathesis")
    command = [
        str(program),
        "--config-file",
        str(HERE / "schemathesis.toml"),
        "run",
        f"http://{world.http_url}/openapi.json",
        "--checks",
        CHECKS,
        *QUICKLY,
    ]
    # Its hooks are a module of its own path.
    environment = {**os.environ, "NO_COLOR": "1", "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HERE)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=world.place.name, env=environment)
    said = done.stdout
    assert done.returncode == 0, said[said.find("= FAILURES =") :][:2500] or said[-2500:] + done.stderr[-500:]


QUICKLY = [
    "--phases",
    "examples,coverage,fuzzing",
    "--max-examples",
    "20",
    "--seed",
    "7",
    "--request-timeout",
    "20",
    "--no-shrink",
]
