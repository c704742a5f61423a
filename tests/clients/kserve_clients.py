"""KServe's own clients, over REST and gRPC.

    python tests/clients/kserve_clients.py plain|explicit HTTP_PORT GRPC_PORT [WORD]...

Their messages have the names of Triton's, so the two cannot be loaded into one process.
"""

import asyncio
import sys
from types import SimpleNamespace

import grpc
import httpx
import numpy as np
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceGRPCClient, InferenceRESTClient, RESTConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from suite import Report, Suite, same
from values import PLAIN, same_bits

SUITE = Suite("kserve")
EXPLICIT = Suite("kserve, explicit control")
NUMPY = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP32", "FP64"]


def rest(run):
    async def main():
        client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))
        try:
            return await run(client)
        finally:
            await client.close()

    return asyncio.run(main())


def rpc(world, run):
    async def main():
        async with InferenceGRPCClient(world.grpc_url, timeout=30) as client:
            return await run(client)

    return asyncio.run(main())


def stub(world, run):
    """The service as KServe's messages have it."""
    with grpc.insecure_channel(world.grpc_url) as channel:
        return run(GRPCInferenceServiceStub(channel))


def request(model, arrays, binary):
    inputs = []
    for name, (datatype, array) in arrays.items():
        given = InferInput(name, list(array.shape), datatype)
        given.set_data_from_numpy(array, binary_data=binary)
        inputs.append(given)
    return InferRequest(model_name=model, infer_inputs=inputs, request_id="k1")


@SUITE.check
def rest_health(world):
    url = f"http://{world.http_url}"
    same(rest(lambda client: client.is_server_live(url)), True)
    same(rest(lambda client: client.is_server_ready(url)), True)
    same(rest(lambda client: client.is_model_ready(url, "fp32")), True)
    same(rest(lambda client: client.is_model_ready(url, "nobody")), False)


@SUITE.check
def grpc_health(world):
    same(rpc(world, lambda client: client.is_server_live()), True)
    same(rpc(world, lambda client: client.is_server_ready()), True)
    same(rpc(world, lambda client: client.is_model_ready("fp32")), True)
    same(rpc(world, lambda client: client.is_model_ready("nobody")), False)


@SUITE.over({f"{datatype}, {form}": (datatype, form == "binary") for datatype in NUMPY for form in ("JSON", "binary")})
def rest_infer(world, case):
    datatype, binary = case
    array = PLAIN[datatype]
    given = request(datatype.lower(), {"input": (datatype, array)}, binary)
    answer = rest(lambda client: client.infer(f"http://{world.http_url}", given, model_name=datatype.lower()))
    same((answer.id, answer.model_name), ("k1", datatype.lower()))
    same_bits(answer.outputs[0].as_numpy(), array)


@SUITE.over({f"{datatype}, {form}": (datatype, form == "raw") for datatype in NUMPY for form in ("contents", "raw")})
def grpc_infer(world, case):
    datatype, binary = case
    array = PLAIN[datatype]
    given = request(datatype.lower(), {"input": (datatype, array)}, binary)
    answer = rpc(world, lambda client: client.infer(given))
    same((answer.id, answer.model_name), ("k1", datatype.lower()))
    same_bits(answer.outputs[0].as_numpy(), array)


@SUITE.check
def texts(world):
    elements = ["", "a", "h\u00e4\u00df\u4e16\u754c"]
    given = InferRequest("bytes", [InferInput("input", [1, 3], "BYTES", data=elements)])
    answer = rest(lambda client: client.infer(f"http://{world.http_url}", given, model_name="bytes"))
    same(answer.outputs[0].data, elements)
    array = np.array([[text.encode() for text in elements]], dtype=object)
    for binary in (False, True):
        answer = rpc(
            world, lambda client, binary=binary: client.infer(request("bytes", {"input": ("BYTES", array)}, binary))
        )
        same_bits(answer.outputs[0].as_numpy(), array)


@SUITE.check
def refusals(world):
    array = np.ones((1, 2), dtype=np.float32)
    given = request("nobody", {"input": ("FP32", array)}, False)
    try:
        rest(lambda client: client.infer(f"http://{world.http_url}", given, model_name="nobody"))
    except httpx.HTTPStatusError as error:
        same(error.response.status_code, 404)
        assert "nobody" in str(error), error
    else:
        raise AssertionError("an unknown model answered")
    try:
        rpc(world, lambda client: client.infer(given))
    except grpc.RpcError as error:
        same(error.code(), grpc.StatusCode.NOT_FOUND)
    else:
        raise AssertionError("an unknown model answered")


@SUITE.check
def metadata(world):
    said = stub(world, lambda service: service.ServerMetadata(messages.ServerMetadataRequest()))
    same(said.name, "jitney")
    model = stub(world, lambda service: service.ModelMetadata(messages.ModelMetadataRequest(name="fp32")))
    same((model.name, list(model.versions), model.inputs[0].datatype), ("fp32", ["1"], "FP32"))
    same(list(model.inputs[0].shape), [-1, -1])


@EXPLICIT.check
def load_and_unload(world):
    """KServe's messages name the model in the field in which Triton's name the repository."""
    said = stub(
        world, lambda service: service.RepositoryModelUnload(messages.RepositoryModelUnloadRequest(model_name="one"))
    )
    same((said.model_name, said.isUnloaded), ("one", True))
    same(stub(world, lambda service: is_ready(service, "one")), False)
    said = stub(
        world, lambda service: service.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name="one"))
    )
    same((said.model_name, said.isLoaded), ("one", True))
    same(stub(world, lambda service: is_ready(service, "one")), True)


def is_ready(service, name):
    return service.ModelReady(messages.ModelReadyRequest(name=name)).ready


def main():
    which, http_port, grpc_port, *words = sys.argv[1:]
    report = Report(words)
    world = SimpleNamespace(http_url=f"127.0.0.1:{http_port}", grpc_url=f"127.0.0.1:{grpc_port}")
    {"plain": SUITE, "explicit": EXPLICIT}[which].run(report, world)
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
