"""Loading and unloading under explicit control, with Triton's clients."""

import json
import tempfile
from contextlib import contextmanager
from pathlib import Path

from faces import INVALID, UNKNOWN, expect, open_faces, row
from suite import Suite, same
from values import same_bits
from world import World, kserve

SUITE = Suite("repository")
MODEL = '[echo]\ninputs = ["FP32[-1]"]\n'


@contextmanager
def explicit():
    """A server with a repository of two models, `one` and `two`."""
    with tempfile.TemporaryDirectory(prefix="jitney-clients-") as folder:
        for name in ("one", "two"):
            (Path(folder) / name).mkdir()
            (Path(folder) / name / "model.toml").write_text(MODEL)
        with World({}, "--control", "explicit", sources=[folder]) as world:
            yield world, Path(folder)


def run(report):
    with explicit() as (world, folder):
        with open_faces(world) as faces:
            for name, face in faces.all.items():
                SUITE.run(report, world, face, folder, prefix=f", {name}")
        report.adopt(*kserve("explicit", world))


def states(face):
    said = face.document("get_model_repository_index")
    models = said if isinstance(said, list) else said.get("models", [])
    return {model["name"]: model.get("state") for model in models}


def answers(face, name):
    array = row(1, 2, 3)
    same_bits(face.infer(name, {"input": array}, {"output": {}}).as_numpy("output"), array)


@SUITE.check
def all_are_loaded_by_name(world, face, folder):
    for name in ("one", "two"):
        face.call("load_model", name)
        assert face.call("is_model_ready", name), name
        answers(face, name)
    same({name: states(face)[name] for name in ("one", "two")}, {"one": "READY", "two": "READY"})


@SUITE.check
def unloading(world, face, folder):
    face.call("load_model", "one")
    face.call("unload_model", "one")
    same(states(face)["one"], "UNAVAILABLE")
    try:
        assert not face.call("is_model_ready", "one")
    except Exception as error:  # noqa: BLE001 - both forms say it
        assert "one" in str(error), error
    try:
        answers(face, "one")
    except Exception as error:  # noqa: BLE001
        assert "one" in str(error), error
    else:
        raise AssertionError("a model that is unloaded answered")
    answers(face, "two")
    face.call("load_model", "one")
    answers(face, "one")


@SUITE.check
def loading_what_is_not_there(world, face, folder):
    expect(UNKNOWN, "nobody", lambda: face.call("load_model", "nobody"), face.kind)
    # The clients over HTTP take the dots out of the path themselves.
    for name in ("..", "one/../two") if face.kind == "grpc" else ():
        expect(UNKNOWN, name, lambda name=name: face.call("load_model", name), face.kind)


@SUITE.check
def loading_again_after_a_change(world, face, folder):
    path = folder / "two" / "model.toml"
    path.write_text('[echo]\ninputs = ["INT64[2]"]\n')
    try:
        face.call("load_model", "two")
        said = face.document("get_model_metadata", "two")
        same(said["inputs"][0]["datatype"], "INT64")
    finally:
        path.write_text(MODEL)
        face.call("load_model", "two")
    answers(face, "two")


@SUITE.check
def a_load_that_fails_leaves_the_old_one(world, face, folder):
    path = folder / "two" / "model.toml"
    path.write_text('[echo]\ninputs = ["NONSENSE[2]"]\n')
    try:
        try:
            face.call("load_model", "two")
        except Exception as error:  # noqa: BLE001
            assert "NONSENSE" in str(error) or "two" in str(error), error
        else:
            raise AssertionError("a broken model was loaded")
        answers(face, "two")
    finally:
        path.write_text(MODEL)
    face.call("load_model", "two")


@SUITE.check
def a_configuration_with_the_load(world, face, folder):
    face.call("load_model", "one", config=json.dumps({"max_batch_size": 3}))
    said = face.document("get_model_config", "one")
    same(int(said.get("config", said)["max_batch_size"]), 3)
    face.call("load_model", "one")


@SUITE.check
def what_cannot_be_overridden_is_refused(world, face, folder):
    nonsense = json.dumps({"backend": "nonsense", "max_batch_size": 2})
    expect(INVALID, "", lambda: face.call("load_model", "one", config=nonsense), face.kind)
    expect(INVALID, "", lambda: face.call("load_model", "one", config="{"), face.kind)
    answers(face, "one")
