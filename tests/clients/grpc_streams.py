"""ModelStreamInfer with Triton's clients, plain and of `asyncio`."""

import asyncio
import queue
import time

import grpc
import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
from faces import row
from suite import Suite, same
from tritonclient.grpc import service_pb2, service_pb2_grpc
from values import texts
from world import wait_for

SUITE = Suite("gRPC streams")
PATIENCE_S = 20


class Stream:
    """One stream of the plain client, whose answers are read in their order."""

    def __init__(self, world, **more):
        self.answers = queue.Queue()
        self.client = triton_grpc.InferenceServerClient(world.grpc_url)
        self.client.start_stream(lambda result, error: self.answers.put((result, error)), **more)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.stop_stream(cancel_requests=True)
        self.client.close()

    def ask(self, model, inputs, **more):
        self.client.async_stream_infer(model, inputs, **more)

    def next(self):
        result, error = self.answers.get(timeout=PATIENCE_S)
        if error is not None:
            raise error
        return result


def given(name, array, datatype):
    return triton_grpc.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


def counting(upto, fail_at=-1, pause_ms=0):
    values = {"upto": upto, "fail_at": fail_at, "pause_ms": pause_ms}
    return [given(name, row(value, dtype=np.int32), "INT32") for name, value in values.items()]


def value(result, name="value"):
    return result.as_numpy(name).ravel()[0]


def is_final(result):
    said = result.get_response().parameters
    return said["triton_final_response"].bool_param if "triton_final_response" in said else None


@SUITE.check
def answers_are_told_apart_by_their_ids(world):
    with Stream(world) as stream:
        for at in range(32):
            stream.ask("fp32", [given("input", row(at), "FP32")], request_id=str(at))
        got = [stream.next() for _ in range(32)]
    same(
        sorted((result.get_response().id, float(value(result, "output"))) for result in got),
        sorted((str(at), float(at)) for at in range(32)),
    )


@SUITE.check
def one_request_and_many_results(world):
    with Stream(world) as stream:
        stream.ask("count", counting(5), request_id="c", enable_empty_final_response=True)
        got = [stream.next() for _ in range(6)]
    same([int(value(result)) for result in got[:5]], [0, 1, 2, 3, 4])
    same([is_final(result) for result in got[:5]], [False] * 5)
    last = got[5]
    same((is_final(last), len(last.get_response().outputs), last.get_response().id), (True, 0, "c"))


@SUITE.check
def without_the_empty_final_response(world):
    with Stream(world) as stream:
        stream.ask("count", counting(3), request_id="a")
        same([int(value(stream.next())) for _ in range(3)], [0, 1, 2])
        stream.ask("fp32", [given("input", row(7), "FP32")], request_id="b")
        same(stream.next().get_response().id, "b")


@SUITE.check
def a_plain_model_says_that_its_answer_is_the_last(world):
    with Stream(world) as stream:
        stream.ask("fp32", [given("input", row(7), "FP32")], enable_empty_final_response=True)
        result = stream.next()
        same((is_final(result), float(value(result, "output"))), (True, 7.0))


@SUITE.check
def an_asynchronous_generator(world):
    with Stream(world) as stream:
        stream.ask("tokens", [given("text_input", texts("a b \u00e4".encode()), "BYTES")])
        same([value(stream.next(), "text_output") for _ in range(3)], [b"a", b"b", "\u00e4".encode()])


@SUITE.check
def several_at_once(world):
    with Stream(world) as stream:
        for at in range(4):
            stream.ask("count", counting(6, pause_ms=5), request_id=str(at))
        got = [stream.next() for _ in range(24)]
    for at in range(4):
        own = [int(value(result)) for result in got if result.get_response().id == str(at)]
        same(own, list(range(6)), f"stream {at}")


@SUITE.check
def errors_on_the_way(world):
    with Stream(world) as stream:
        stream.ask("count", counting(9, fail_at=2), request_id="e")
        same([int(value(stream.next())) for _ in range(2)], [0, 1])
        error = error_of(stream)
        assert "told to fail at 2" in error.message(), error
        stream.ask("nobody", [given("input", row(1), "FP32")])
        assert "nobody" in error_of(stream).message()
        stream.ask("count", [given("upto", row(1, dtype=np.int32), "INT32")])
        assert "missing" in error_of(stream).message()
        stream.ask("fp32", [given("input", row(4), "FP32")])
        same(float(value(stream.next(), "output")), 4.0)


def error_of(stream):
    result, error = stream.answers.get(timeout=PATIENCE_S)
    assert error is not None, result.get_response()
    return error


@SUITE.check
def errors_as_a_status_where_that_is_asked_for(world):
    with Stream(world, headers={"triton_grpc_error": "true"}) as stream:
        stream.ask("nobody", [given("input", row(1), "FP32")])
        error = error_of(stream)
        same(error.status(), "StatusCode.NOT_FOUND", error.message())


@SUITE.check
def a_reader_that_leaves_stops_the_model(world):
    before = world.metrics()
    with Stream(world) as stream:
        stream.ask("count", counting(100_000, pause_ms=2))
        for _ in range(3):
            stream.next()
    gone = before.sum("jitney_requests_total", model="count", code="cancelled")
    wait_for(lambda: world.counted("cancelled", "count") == gone + 1, 3)
    wait_for(lambda: world.metrics().sum("jitney_running_items", model="count") == 0, 3)


@SUITE.check
def streams_of_asyncio(world):
    asyncio.run(of_asyncio(world))


async def of_asyncio(world):
    async def requests():
        for at in range(3):
            yield {
                "model_name": "count",
                "inputs": counting(4),
                "request_id": str(at),
                "enable_empty_final_response": True,
            }

    async with triton_grpc_aio.InferenceServerClient(world.grpc_url) as client:
        got = {}
        async for result, error in client.stream_infer(requests()):
            assert error is None, error
            said = result.get_response()
            got.setdefault(said.id, []).append(int(value(result)))
    same(got, {str(at): [0, 1, 2, 3] for at in range(3)})


@SUITE.check
def one_answer_of_a_model_that_streams(world):
    client = triton_grpc.InferenceServerClient(world.grpc_url)
    try:
        same(int(value(client.infer("count", counting(1)))), 0)
        try:
            client.infer("count", counting(3))
        except Exception as error:  # noqa: BLE001 - the client's own
            assert "INVALID_ARGUMENT" in str(error) or "stream" in str(error).lower(), error
        else:
            raise AssertionError("three results became one answer")
    finally:
        client.close()


@SUITE.check
def a_reader_that_pauses_holds_up_nobody(world):
    """It takes nothing for a while; its own generator waits, and all that it made arrives in order in the end."""

    def requests():
        message = service_pb2.ModelInferRequest(model_name="count", id="slow")
        for name, number in {"upto": 20_000, "fail_at": -1, "pause_ms": 0}.items():
            message.inputs.add(name=name, datatype="INT32", shape=[1, 1])
            message.raw_input_contents.append(np.int32(number).tobytes())
        yield message
        time.sleep(PATIENCE_S)

    with grpc.insecure_channel(world.grpc_url) as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(requests())
        first = next(call)
        same(np.frombuffer(first.infer_response.raw_output_contents[0], dtype=np.int32)[0], 0)
        time.sleep(0.3)
        with Stream(world) as stream:
            started = time.monotonic()
            stream.ask("count", counting(50))
            same([int(value(stream.next())) for _ in range(50)], list(range(50)))
            assert time.monotonic() - started < 5
        for wanted in range(1, 2000):
            answer = next(call)
            assert not answer.error_message, answer.error_message
            same(np.frombuffer(answer.infer_response.raw_output_contents[0], dtype=np.int32)[0], wanted)
        call.cancel()
