"""Everything that Triton's clients can ask, over each of them: HTTP and gRPC, plain and asynchronous."""

import asyncio
import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tritonclient.http as triton_http
import values
from faces import INVALID, LATE, MODEL_ERROR, OVERLOADED, UNKNOWN, expect, row
from suite import Suite, same
from tritonclient.utils import InferenceServerException
from values import same_bits, texts
from world import DATATYPES, wait_for

SUITE = Suite("triton")


@SUITE.check
def health(world, face):
    assert face.call("is_server_live") is True
    assert face.call("is_server_ready") is True
    assert face.call("is_model_ready", "fp32") is True
    assert face.call("is_model_ready", "fp32", "1") is True


@SUITE.check
def a_model_that_is_not_there_is_not_ready(world, face):
    assert face.call("is_model_ready", "nobody") is False


@SUITE.check
def server_metadata(world, face):
    said = face.document("get_server_metadata")
    same(said["name"], "jitney")
    assert isinstance(said["version"], str) and said["version"]
    wanted = {
        "binary_tensor_data",
        "classification",
        "logging",
        "model_configuration",
        "model_repository",
        "parameters",
        "schedule_policy",
        "statistics",
        "trace",
    }
    missing = wanted - set(said["extensions"])
    assert not missing, f"not advertised: {sorted(missing)}"
    # A client that reads these strings would use what is not there.
    for absent in ("cuda_shared_memory", "system_shared_memory", "sequence"):
        assert absent not in said["extensions"], f"{absent} is advertised"


@SUITE.check
def model_metadata(world, face):
    said = face.document("get_model_metadata", "mixed")
    same(said["name"], "mixed")
    assert said["platform"], said
    same([str(version) for version in said["versions"]], ["1"])
    same({key["name"]: (key["datatype"], key["shape"]) for key in said["inputs"]}, MIXED_SIGNATURE)
    same(
        {key["name"]: (key["datatype"], key["shape"]) for key in said["outputs"]},
        {MIXED_OUTPUTS[name]: what for name, what in MIXED_SIGNATURE.items()},
    )
    same(face.document("get_model_metadata", "mixed", "1"), said)


MIXED_OUTPUTS = {"a": "output0", "b": "output1", "c": "output2"}
MIXED_SIGNATURE = {"a": ("FP32", [-1, 2]), "b": ("INT64", [-1, -1]), "c": ("BYTES", [-1, 1])}


@SUITE.check
def model_configuration(world, face):
    said = face.document("get_model_config", "mixed")
    config = said if face.kind == "http" else said["config"]
    same(config["name"], "mixed")
    assert int(config["max_batch_size"]) >= 1, config
    # Triton's shapes leave the axis of the batch away where there is a largest batch.
    inputs = {given["name"]: (given["data_type"], given["dims"]) for given in config["input"]}
    same(inputs, {"a": ("TYPE_FP32", [2]), "b": ("TYPE_INT64", [-1]), "c": ("TYPE_STRING", [1])})
    same({given["name"] for given in config["output"]}, set(MIXED_OUTPUTS.values()))
    decoupled = face.document("get_model_config", "count")
    decoupled = decoupled if face.kind == "http" else decoupled["config"]
    assert decoupled["model_transaction_policy"]["decoupled"] is True, decoupled


@SUITE.over({datatype: datatype for datatype in DATATYPES})
def binary_both_ways(world, face, datatype):
    for table in (values.PLAIN, values.BITS):
        if datatype in table:
            array = table[datatype]
            result = face.infer(datatype.lower(), {"input": array}, {"output": {}})
            same_bits(result.as_numpy("output"), array)
            # Without a word about outputs, the client asks for all in binary form.
            same_bits(face.infer(datatype.lower(), {"input": array}).as_numpy("output"), array)


@SUITE.over({datatype: datatype for datatype in DATATYPES if datatype not in ("FP16", "BF16")})
def json_in_and_out(world, face, datatype):
    if not face.json:
        return
    array = values.PLAIN[datatype]
    asked = {"output": {"binary_data": False}}
    for binary_in, outputs in ((False, asked), (True, asked), (False, {"output": {}}), (False, None)):
        result = face.infer(datatype.lower(), {"input": array}, outputs, binary=binary_in)
        same_bits(result.as_numpy("output"), array)
        form = result.get_output("output")
        assert ("data" in form) is (outputs is asked), form


@SUITE.check
def halves_as_json(world, face):
    """They come out as numbers. They do not go in as such, as with Triton; the refusal says what to do."""
    if not face.json:
        return
    array = values.PLAIN["FP16"]
    expect(INVALID, "raw", lambda: face.infer("fp16", {"input": array}, binary=False), face.kind)
    same_bits(face.infer("fp16", {"input": array}, {"output": {"binary_data": False}}).as_numpy("output"), array)


@SUITE.check
def what_json_has_no_number_for(world, face):
    """The client writes bare words. Strict JSON has none, so the answer has them in quotes, of which the client makes the same numbers."""
    if not face.json:
        return
    asked = {"output": {"binary_data": False}}
    array = row(np.nan, 1.0, np.inf, -np.inf)
    result = face.infer("fp32", {"input": array}, asked, binary=False)
    same(result.get_output("output")["parameters"]["non_finite"], 3)
    np.testing.assert_array_equal(result.as_numpy("output"), array)
    same_bits(
        face.infer("fp32", {"input": array[:, 1:]}, {"output": {}}, binary=False).as_numpy("output"), array[:, 1:]
    )


@SUITE.check
def json_and_binary_in_one_request(world, face):
    arrays = mixed(1)
    if not face.json:
        return check_mixed(face, arrays, {}, None)
    for at in range(8):
        way_in = {name: bool(at >> index & 1) for index, name in enumerate("abc")}
        # The order of the outputs is the caller's, and that of the raw parts follows it.
        outputs = {MIXED_OUTPUTS[name]: {"binary_data": not way_in[name]} for name in "cab"}
        check_mixed(face, arrays, way_in, outputs)
    return None


def check_mixed(face, arrays, binary, outputs):
    result = face.infer("mixed", arrays, outputs, binary=binary or True)
    for name, array in arrays.items():
        same_bits(result.as_numpy(MIXED_OUTPUTS[name]), array)
    names = [output["name"] for output in face.response(result)["outputs"]]
    same(names, list(outputs or MIXED_OUTPUTS.values()), "the outputs")


def mixed(rows):
    a = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    b = np.arange(3 * rows, dtype=np.int64).reshape(rows, 3) - 2**60
    c = np.array([[f"text {at}".encode()] for at in range(rows)], dtype=object)
    return {"a": a, "b": b, "c": c}


@SUITE.check
def only_the_outputs_that_are_asked_for(world, face):
    result = face.infer("mixed", mixed(1), {"output1": {}})
    same([output["name"] for output in face.response(result)["outputs"]], ["output1"])
    assert result.as_numpy("output0") is None


@SUITE.check
def many_rows(world, face):
    check_mixed(face, mixed(7), {}, None)


@SUITE.check
def rows_of_nothing(world, face):
    for datatype, array in {"fp32": np.zeros((2, 0), np.float32), "bytes": np.empty((2, 0), dtype=object)}.items():
        same_bits(face.infer(datatype, {"input": array}, {"output": {}}).as_numpy("output"), array)


@SUITE.check
def a_model_without_an_axis_for_batches(world, face):
    array = np.arange(5, dtype=np.uint8)
    same_bits(face.infer("whole", {"input": array}, {"output": {}}).as_numpy("output"), array)


@SUITE.check
def large_tensors(world, face):
    array = np.random.default_rng(7).random((4, 3, 224, 224), dtype=np.float32)
    same_bits(face.infer("image", {"input": array}, {"output": {}}).as_numpy("output"), array)


@SUITE.check
def ids_and_versions(world, face):
    array = row(1.0)
    said = face.response(face.infer("fp32", {"input": array}, request_id='\u00e4 "7"'))
    same((said["model_name"], said["model_version"], said["id"]), ("fp32", "1", '\u00e4 "7"'))
    # `as_json` of an empty text is no key at all.
    assert not face.response(face.infer("fp32", {"input": array})).get("id")
    assert face.infer("fp32", {"input": array}, model_version="1")
    expect(UNKNOWN, "version", lambda: face.infer("fp32", {"input": array}, model_version="7"), face.kind)


@SUITE.check
def compression(world, face):
    array = np.tile(np.arange(64, dtype=np.float32), (1, 512))
    for algorithm in ("gzip", "deflate"):
        for outputs in ({"output": {}}, {"output": {"binary_data": False}}) if face.json else ({"output": {}},):
            if face.kind == "http":
                more = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
            else:
                more = {"compression_algorithm": algorithm}
            same_bits(face.infer("fp32", {"input": array}, outputs, **more).as_numpy("output"), array)


@SUITE.check
def classification(world, face):
    pixels = np.zeros((3, 64), dtype=np.float32)
    pixels[1], pixels[2] = 16, np.arange(64) % 17
    scores = face.infer("digits", {"pixels": pixels}, {"scores": {}}).as_numpy("scores")
    best = face.infer("digits", {"pixels": pixels}, {"scores": {"class_count": 3}}).as_numpy("scores")
    same(best.shape, (3, 3))
    for line, of in zip(best, scores):
        order = np.argsort(-of, kind="stable")[:3]
        for said, index in zip(line, order):
            text = said.decode() if isinstance(said, bytes) else str(said)
            value, at, label = text.split(":")
            same((int(at), label), (int(index), str(index)), text)
            assert abs(float(value) - of[index]) < 1e-4 * max(1, abs(of[index])), f"{text} of {of}"
    everything = face.infer("digits", {"pixels": pixels}, {"scores": {"class_count": 99}}).as_numpy("scores")
    same(everything.shape, (3, 10))


@SUITE.check
def classification_without_labels(world, face):
    best = face.infer("fp32", {"input": row(1, 5, 3)}, {"output": {"class_count": 2}}).as_numpy("output")
    said = [text.decode().split(":") for text in best.ravel()]
    same([(float(value), int(index)) for value, index in said], [(5.0, 1), (3.0, 2)])
    expect(
        INVALID,
        "classification",
        lambda: face.infer("bytes", {"input": texts(b"a")}, {"output": {"class_count": 1}}),
        face.kind,
    )


@SUITE.check
def statistics(world, face):
    before = stats(face, "int16")
    for rows in (1, 2, 1):
        face.infer("int16", {"input": np.ones((rows, 3), dtype=np.int16)})
    after = stats(face, "int16")
    same((after["name"], str(after["version"])), ("int16", "1"))
    same(count(after, "inference_count") - count(before, "inference_count"), 4, "rows")
    assert 1 <= count(after, "execution_count") - count(before, "execution_count") <= 3

    def grown(key):
        return count(after["inference_stats"][key], "count") - count(before["inference_stats"].get(key, {}), "count")

    same(grown("success"), 3)
    same(grown("fail"), 0)
    assert count(after["inference_stats"]["success"], "ns") > 0, after
    assert grown("queue") == grown("compute_infer") == grown("compute_input") == grown("compute_output"), after
    assert abs(count(after, "last_inference") / 1e3 - time.time()) < 60, after
    assert sum(count(size, "batch_size") > 0 for size in after["batch_stats"]) >= 1, after


@SUITE.check
def statistics_of_failures(world, face):
    before = stats(face, "faulty")
    expect(MODEL_ERROR, "", lambda: face.infer("faulty", {"input": row(-1, 0)}), face.kind)
    after = stats(face, "faulty")
    fails = [count(said["inference_stats"]["fail"], "count") for said in (before, after)]
    same(fails[1] - fails[0], 1)


@SUITE.check
def statistics_of_all_models(world, face):
    names = {said["name"] for said in face.document("get_inference_statistics")["model_stats"]}
    assert {"fp32", "digits", "count"} <= names, names


def stats(face, model):
    said = face.document("get_inference_statistics", model)["model_stats"]
    same(len(said), 1)
    return said[0]


def count(of, key):
    """Protobuf's JSON leaves zeros out."""
    return int(of.get(key, 0))


@SUITE.check
def repository_index(world, face):
    said = face.document("get_model_repository_index")
    models = said if isinstance(said, list) else said["models"]
    rows = {model["name"]: model for model in models}
    same((str(rows["fp32"]["version"]), rows["fp32"]["state"]), ("1", "READY"))
    assert "digits" in rows, sorted(rows)


@SUITE.check
def loading_is_refused_without_control(world, face):
    for method in ("load_model", "unload_model"):
        try:
            face.call(method, "fp32")
        except InferenceServerException as error:
            assert "--control explicit" in error.message(), error.message()
        else:
            raise AssertionError(f"{method} was not refused")
    assert face.call("is_model_ready", "fp32")


@SUITE.check
def log_settings(world, face):
    before = plain_settings(face.document("get_log_settings"))
    assert {"log_info", "log_warning", "log_error", "log_verbose_level", "log_format"} <= set(before), before
    level = 0 if int(before["log_verbose_level"]) else 1
    after = plain_settings(face.document("update_log_settings", {"log_verbose_level": level}))
    try:
        same(int(after["log_verbose_level"]), level)
        same(plain_settings(face.document("get_log_settings")), after)
    finally:
        face.call("update_log_settings", {"log_verbose_level": int(before["log_verbose_level"])})
    expect(INVALID, "log_", lambda: face.call("update_log_settings", {"log_nonsense": True}), face.kind)


@SUITE.check
def trace_settings(world, face):
    before = plain_settings(face.document("get_trace_settings"))
    assert {"trace_level", "trace_rate", "trace_count", "log_frequency"} <= set(before), before
    of_model = plain_settings(face.document("get_trace_settings", "fp32"))
    same(set(of_model), set(before))
    expect(UNKNOWN, "nobody", lambda: face.call("get_trace_settings", "nobody"), face.kind)


def plain_settings(said):
    """gRPC wraps each value by its type."""
    settings = said.get("settings", said)
    plain = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            value = next(iter(value.values()), False)
        plain[key] = value
    return plain


@SUITE.check
def parameters_reach_the_model(world, face):
    given = {"name": "\u00e4", "yes": True, "many": 2**53 + 1, "less": -5}
    result = face.infer("asked", {"input": texts(b"")}, {"asked": {}}, request_id="r1", priority=3, parameters=given)
    asked = json.loads(result.as_numpy("asked").ravel()[0])
    same(asked["id"], "r1")
    for key, value in given.items():
        same(asked["parameters"].get(key), value, key)


@SUITE.check
def numbers_with_a_point_reach_the_model(world, face):
    result = face.infer("asked", {"input": texts(b"")}, {"asked": {}}, parameters={"half": 0.5})
    same(json.loads(result.as_numpy("asked").ravel()[0])["parameters"]["half"], 0.5)


@SUITE.check
def priorities_overtake(world, face):
    """A model that takes one row at a time: the request that comes last and says that it is urgent is not answered last."""
    queued = lambda: world.metrics().sum("jitney_queued_items", model="narrow")  # noqa: E731
    with ThreadPoolExecutor(8) as pool:
        late = [pool.submit(ask_narrow, world, face, at, 0) for at in range(6)]
        wait_for(lambda: queued() >= 4, 5)
        urgent = pool.submit(ask_narrow, world, face, 9, 1)
        ended = sorted(future.result() for future in late)
        assert urgent.result() < ended[-2], "the urgent request did not overtake those that waited"


def ask_narrow(world, face, value, priority):
    """With a client of its own: the plain one over HTTP belongs to one thread."""
    own = type(face)(world)
    result = own.infer("narrow", {"input": row(value)}, {"output": {}}, priority=priority)
    ended = time.monotonic()
    own.close()
    same_bits(result.as_numpy("output"), row(value))
    return ended


@SUITE.check
def timeouts_of_the_request(world, face):
    """In microseconds, and kept by the server."""
    started = time.monotonic()
    try:
        face.infer("slow", {"input": row(1)}, timeout=50_000)
    except InferenceServerException as error:
        # A server that has learned what the model costs refuses at once.
        wanted = [status[0] if face.kind == "http" else f"StatusCode.{status[1]}" for status in (LATE, OVERLOADED)]
        assert error.status() in wanted, f"{error.status()}: {error.message()}"
    else:
        raise AssertionError("an answer that could not be in time")
    assert time.monotonic() - started < 0.28, "answered only when the model had ended"
    assert face.infer("slow", {"input": row(1)}, timeout=20_000_000)


@SUITE.over(
    {
        "an unknown model": (UNKNOWN, "nobody", "nobody", {"input": row(1)}, None),
        "an unknown input": (INVALID, "extra", "fp32", {"input": row(1), "extra": row(1)}, None),
        "a missing input": (INVALID, ["b", "missing"], "mixed", {"a": row(1, 2), "c": texts(b"x")}, None),
        "another datatype": (INVALID, ["FP32", "INT64"], "fp32", {"input": row(1, dtype=np.int64)}, None),
        "another shape": (INVALID, "shape", "image", {"input": row(1)}, None),
        "too few axes": (INVALID, "shape", "fp32", {"input": np.ones(3, dtype=np.float32)}, None),
        "an unknown output": (INVALID, "nothing", "fp32", {"input": row(1)}, {"nothing": {}}),
        "unequal rows": (INVALID, "rows", "mixed", {**mixed(2), "a": row(1, 2)}, None),
        "too many rows": (INVALID, "rows", "fp32", {"input": np.ones((5000, 1), dtype=np.float32)}, None),
        "no rows": (INVALID, "row", "fp32", {"input": np.ones((0, 1), dtype=np.float32)}, None),
        "a model that fails": (MODEL_ERROR, "", "faulty", {"input": row(-1, 0)}, None),
        "a model that refuses": (INVALID, "", "faulty", {"input": row(-6, 0)}, None),
    }
)
def refusals(world, face, case):
    status, words, model, arrays, outputs = case
    expect(status, words, lambda: face.infer(model, arrays, outputs), face.kind)
    assert face.infer("fp32", {"input": row(1)}), "and the client goes on"


@SUITE.check
def memory_that_is_shared_is_refused(world, face):
    given = face.library.InferInput("input", [1, 4], "FP32").set_shared_memory("region", 16)
    expect(INVALID, "shared", lambda: face.call("infer", "fp32", [given]), face.kind)


@SUITE.check
def many_at_once(world, face):
    answers = at_once_http(face) if face.kind == "http" else at_once_grpc(face)
    for at, result in enumerate(answers):
        same_bits(result.as_numpy("output"), row(at))


def at_once_http(face):
    inputs = [[face.input("input", row(at))] for at in range(64)]
    if hasattr(face.client, "async_infer"):
        return [pending.get_result() for pending in [face.client.async_infer("fp32", given) for given in inputs]]
    return face.wait(gathered(face, inputs))


def at_once_grpc(face):
    inputs = [[face.input("input", row(at))] for at in range(64)]
    if not hasattr(face.client, "async_infer"):
        return face.wait(gathered(face, inputs))
    answers, done = {}, threading.Semaphore(0)

    def keep(at, result, error):
        answers[at] = error or result
        done.release()

    for at, given in enumerate(inputs):
        face.client.async_infer("fp32", given, callback=lambda result, error, at=at: keep(at, result, error))
    for _ in inputs:
        assert done.acquire(timeout=10)
    return [answers[at] for at in range(64)]


async def gathered(face, inputs):
    return await asyncio.gather(*(face.client.infer("fp32", given) for given in inputs))


@SUITE.check
def clients_that_give_up_cancel(world, face):
    gone = world.counted("cancelled", "slow")
    if face.kind == "grpc":
        # The time of the client is told to the server, which may be the first to see it pass, or see at once that it will.
        codes = ("cancelled", "deadline_exceeded", "overloaded")
        before = sum(world.counted(code, "slow") for code in codes)
        with contextlib.suppress(InferenceServerException):
            face.infer("slow", {"input": row(1)}, client_timeout=0.05)
            raise AssertionError("an answer that could not be in time")
        wait_for(lambda: sum(world.counted(code, "slow") for code in codes) == before + 1, 2)
        return
    with ThreadPoolExecutor(1) as pool:
        leave(world, face, pool)
    wait_for(lambda: world.counted("cancelled", "slow") == gone + 1, 2)


def leave(world, face, pool):
    """A client over HTTP that closes its connection while the model runs."""
    other = triton_http.InferenceServerClient(world.http_url, network_timeout=0.1)
    given = face.input("input", row(1))
    pending = pool.submit(other.infer, "slow", [given])
    assert isinstance(pending.exception(10), Exception)
    other.close()


@SUITE.check
def calls_that_are_cancelled(world, face):
    if face.kind != "grpc":
        return
    gone = world.counted("cancelled", "slow")
    given = [face.input("input", row(1))]
    if hasattr(face.client, "async_infer"):
        errors = []
        call = face.client.async_infer("slow", given, callback=lambda result, error: errors.append(error))
        time.sleep(0.05)
        call.cancel()
        wait_for(lambda: errors, 2)
        same(errors[0].status(), "StatusCode.CANCELLED")
    else:
        face.wait(cancelled_soon(face, given))
    wait_for(lambda: world.counted("cancelled", "slow") == gone + 1, 2)


async def cancelled_soon(face, given):
    task = asyncio.ensure_future(face.client.infer("slow", given))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
