"""gRPC without a client of Triton's: typed contents, health, reflection, and what a broken client sends."""

import gzip
import json
import struct
import time
import zlib

import grpc
import numpy as np
import values
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from suite import Suite, same
from tritonclient.grpc import service_pb2, service_pb2_grpc
from wire2 import Grpc
from world import DATATYPES, wait_for

SUITE = Suite("gRPC")
SERVICE = "inference.GRPCInferenceService"
INFER = f"/{SERVICE}/ModelInfer"
FIELDS = {
    "BOOL": "bool_contents",
    **{datatype: "int_contents" for datatype in ("INT8", "INT16", "INT32")},
    **{datatype: "uint_contents" for datatype in ("UINT8", "UINT16", "UINT32")},
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def channel(world):
    limits = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    return grpc.insecure_channel(world.grpc_url, limits)


def infer(world, message, **more):
    with channel(world) as open_channel:
        return service_pb2_grpc.GRPCInferenceServiceStub(open_channel).ModelInfer(message, **more)


def request(model="fp32", datatype="FP32", shape=(1, 4), raw=None, **contents):
    message = service_pb2.ModelInferRequest(model_name=model)
    tensor = message.inputs.add(name="input", datatype=datatype, shape=shape)
    for field, elements in contents.items():
        getattr(tensor.contents, field).extend(elements)
    if raw is not None:
        message.raw_input_contents.append(raw)
    return message


def refused(code, words, run):
    try:
        answer = run()
    except grpc.RpcError as error:
        assert error.code() in (code if isinstance(code, tuple) else (code,)), f"{error.code()}: {error.details()}"
        assert words.lower() in error.details().lower(), f"expected {words!r} in {error.details()!r}"
        return error
    raise AssertionError(f"expected {code}, got {answer}")


@SUITE.over({datatype: datatype for datatype in FIELDS})
def typed_contents(world, datatype):
    array = values.BITS.get(datatype, values.PLAIN[datatype])
    elements = array.ravel().tolist()
    answer = infer(world, request(datatype.lower(), datatype, array.shape, **{FIELDS[datatype]: elements}))
    same(list(answer.raw_output_contents), [], "an answer in the form of the request")
    output = answer.outputs[0]
    same(list(output.shape), list(array.shape))
    got = list(getattr(output.contents, FIELDS[datatype]))
    if datatype == "BYTES":
        same(got, elements)
    else:
        # Python's own numbers do not keep what a NaN carries.
        np.testing.assert_array_equal(np.array([got], dtype=array.dtype), array)


@SUITE.over({datatype: datatype for datatype in DATATYPES})
def raw_contents(world, datatype):
    array = values.PLAIN[datatype]
    raw = (
        array.tobytes()
        if datatype != "BYTES"
        else b"".join(struct.pack("<I", len(text)) + text for text in array.ravel())
    )
    answer = infer(world, request(datatype.lower(), datatype, array.shape, raw))
    same(list(answer.raw_output_contents), [raw])
    assert not answer.outputs[0].HasField("contents"), answer


INVALID = grpc.StatusCode.INVALID_ARGUMENT
FAULTY = {
    "raw and typed": (INVALID, "raw", lambda: request(raw=b"\0" * 16, fp32_contents=[1, 2, 3, 4])),
    "neither": (INVALID, "", lambda: request()),
    "two fields of contents": (INVALID, "", lambda: request(fp32_contents=[1, 2, 3, 4], fp64_contents=[1])),
    "the wrong field": (INVALID, "fp32_contents", lambda: request(fp64_contents=[1, 2, 3, 4])),
    "too few elements": (INVALID, "4", lambda: request(fp32_contents=[1, 2, 3])),
    "raw of the wrong size": (INVALID, "16", lambda: request(raw=b"\0" * 15)),
    "a small integer out of range": (INVALID, "INT8", lambda: request("int8", "INT8", (1, 1), int_contents=[300])),
    "an unsigned integer out of range": (
        INVALID,
        "UINT16",
        lambda: request("uint16", "UINT16", (1, 1), uint_contents=[65536]),
    ),
    "halves as contents": (INVALID, "raw", lambda: request("fp16", "FP16", (1, 1), fp32_contents=[1])),
    "a negative shape": (INVALID, "shape", lambda: request(shape=(1, -4), raw=b"")),
    "a shape beyond all memory": (INVALID, "", lambda: request(shape=(2**62, 2**62), raw=b"")),
    "an unknown datatype": (INVALID, "FP99", lambda: request(datatype="FP99", raw=b"\0" * 16)),
    "more raw contents than inputs": (INVALID, "raw", lambda: with_raw(request(raw=b"\0" * 16), b"")),
    "no model": (grpc.StatusCode.NOT_FOUND, "", lambda: request("", raw=b"\0" * 16)),
    "an unknown model": (grpc.StatusCode.NOT_FOUND, "nobody", lambda: request("nobody", raw=b"\0" * 16)),
    "an input twice": (INVALID, "input", lambda: twice()),
}


def with_raw(message, raw):
    message.raw_input_contents.append(raw)
    return message


def twice():
    message = request(raw=b"\0" * 16)
    message.inputs.append(message.inputs[0])
    return with_raw(message, b"\0" * 16)


@SUITE.over(FAULTY)
def requests_that_are_refused(world, case):
    code, words, make = case
    error = refused(code, words, lambda: infer(world, make()))
    words_of_failure = dict(error.trailing_metadata() or ())
    wanted = "invalid_input" if code is INVALID else "unknown_model"
    same(words_of_failure.get("jitney-code"), wanted, str(words_of_failure))


@SUITE.check
def an_unknown_method(world):
    with channel(world) as open_channel:
        for path in (
            f"/{SERVICE}/Nonsense",
            "/nonsense.Service/ModelInfer",
            "/inference.GRPCInferenceService/modelinfer",
        ):
            call = open_channel.unary_unary(path, lambda data: data, lambda data: data)
            refused(grpc.StatusCode.UNIMPLEMENTED, "", lambda call=call: call(b"", timeout=5))


@SUITE.check
def large_messages(world):
    rows = 12
    raw = np.random.default_rng(3).bytes(rows * 3 * 224 * 224 * 4)
    answer = infer(world, request("image", "FP32", (rows, 3, 224, 224), raw))
    same(answer.raw_output_contents[0] == raw, True)


@SUITE.over({"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate})
def compression(world, algorithm):
    message = request(shape=(1, 4096), raw=b"\0\0\x80?" * 4096)
    same(infer(world, message, compression=algorithm).raw_output_contents[0], message.raw_input_contents[0])


@SUITE.check
def deadlines(world):
    message = request("slow", shape=(1, 1), raw=b"\0" * 4)
    ended = lambda: sum(world.counted(code, "slow") for code in ("deadline_exceeded", "cancelled", "overloaded"))  # noqa: E731
    before, started = ended(), time.monotonic()
    # A server that has learned what the model costs refuses at once.
    refused(LATE, "", lambda: infer(world, message, timeout=0.06))
    assert time.monotonic() - started < 0.28
    wait_for(lambda: ended() == before + 1, 2)


LATE = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)


@SUITE.check
def health_checks(world):
    with channel(world) as open_channel:
        health = health_pb2_grpc.HealthStub(open_channel)
        for service in ("", SERVICE):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            same(answer.status, health_pb2.HealthCheckResponse.SERVING, service)
        refused(
            grpc.StatusCode.NOT_FOUND,
            "",
            lambda: health.Check(health_pb2.HealthCheckRequest(service="nonsense"), timeout=5),
        )
        watch = health.Watch(health_pb2.HealthCheckRequest(service=""), timeout=10)
        same(next(watch).status, health_pb2.HealthCheckResponse.SERVING)
        watch.cancel()
        unknown = health.Watch(health_pb2.HealthCheckRequest(service="nonsense"), timeout=10)
        same(next(unknown).status, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        unknown.cancel()


@SUITE.check
def reflection(world):
    """As `grpcurl` does it: from nothing but the server's word to an answer."""
    with channel(world) as open_channel:
        database = ProtoReflectionDescriptorDatabase(open_channel)
        assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services()), database.get_services()
        pool = descriptor_pool.DescriptorPool(database)
        service = pool.FindServiceByName(SERVICE)
        methods = {method.name for method in service.methods}
        assert {
            "ServerLive",
            "ModelInfer",
            "ModelStreamInfer",
            "RepositoryIndex",
            "ModelStatistics",
            "ModelConfig",
        } <= methods, methods
        method = service.FindMethodByName("ModelInfer")
        types = [message_factory.GetMessageClass(kind) for kind in (method.input_type, method.output_type)]
        given = {
            "model_name": "fp32",
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 2], "contents": {"fp32_contents": [1.5, 2]}}],
        }
        call = open_channel.unary_unary(INFER, types[0].SerializeToString, types[1].FromString)
        answer = call(json_format.ParseDict(given, types[0]()), timeout=5)
        same(list(answer.outputs[0].contents.fp32_contents), [1.5, 2])


@SUITE.check
def reflection_of_what_is_not_there(world):
    with channel(world) as open_channel:
        database = ProtoReflectionDescriptorDatabase(open_channel)
        for symbol in ("nonsense.Symbol", ""):
            try:
                database.FindFileContainingSymbol(symbol)
            except KeyError:
                continue
            raise AssertionError(f"{symbol!r} was found")


@SUITE.check
def the_service_is_tritons(world):
    """Field for field: what differs would be read as something else by Triton's clients."""
    with channel(world) as open_channel:
        ours = {}
        database = ProtoReflectionDescriptorDatabase(open_channel)
        file = descriptor_pb2.FileDescriptorProto()
        database.FindFileContainingSymbol(SERVICE).CopyTo(file) if hasattr(
            database.FindFileContainingSymbol(SERVICE), "CopyTo"
        ) else file.ParseFromString(database.FindFileContainingSymbol(SERVICE).SerializeToString())
        collect("", file.message_type, ours)
    theirs = descriptor_pb2.FileDescriptorProto()
    service_pb2.DESCRIPTOR.CopyToProto(theirs)
    fields = {}
    collect("", theirs.message_type, fields)
    # What we have beside Triton's, and what KServe's SDK has in the same places.
    shared = {key for key in ours if key in fields}
    assert len(shared) > 100, len(shared)
    for key in sorted(shared):
        assert ours[key] == fields[key], f"{key}: expected {fields[key]}, got {ours[key]}"


def collect(prefix, messages, fields):
    for message in messages:
        for field in message.field:
            fields[f"{prefix}{message.name}.{field.number}"] = (field.name, field.type, field.label)
        collect(f"{prefix}{message.name}.", message.nested_type, fields)


GOOD = request(raw=struct.pack("<4f", 1, 2, 3, 4)).SerializeToString()
DEEP = b"\x0b" * 20_000


def framed(data, flag=0, length=None):
    return struct.pack(">BI", flag, len(data) if length is None else length) + data


# What comes, and the statuses that may answer it; a reset of the stream alone is an answer too where it says so.
BROKEN = {
    "a prefix of 4 GiB": (framed(GOOD, length=0xFFFFFFFF), (), ("3", "8", "13")),
    "a message that is cut off": (framed(GOOD)[:-3], (), ("3", "13")),
    "a prefix that is cut off": (b"\0\0\0", (), ("3", "13")),
    "nothing": (b"", (), ("3", "12", "13")),
    "two messages": (framed(GOOD) * 2, (), ("0", "3", "12", "13")),
    "a compressed message without an encoding": (framed(gzip.compress(GOOD), 1), (), ("3", "12", "13")),
    "an unknown encoding": (framed(GOOD, 1), [("grpc-encoding", "lz4")], ("3", "12", "13")),
    "an encoding that is broken": (framed(b"\x1f\x8b nonsense", 1), [("grpc-encoding", "gzip")], ("3", "13")),
    "a bomb": (framed(gzip.compress(b"\0" * (512 << 20), 1), 1), [("grpc-encoding", "gzip")], ("3", "8", "11", "13")),
    "a flag that does not exist": (framed(GOOD, 7), (), ("3", "12", "13")),
    "no message of protobuf": (framed(b"\xff" * 64), (), ("3", "13")),
    "groups in groups": (framed(DEEP), (), ("3", "13")),
    "a name that is no text": (framed(b"\x0a\x02\xff\xfe"), (), ("3", "13")),
    "a timeout without a unit": (framed(GOOD), [("grpc-timeout", "100")], ("0", "3", "13")),
    "a timeout of nine digits": (framed(GOOD), [("grpc-timeout", "123456789S")], ("0", "3", "13")),
    "a negative timeout": (framed(GOOD), [("grpc-timeout", "-1S")], ("0", "3", "13")),
    "a timeout of nothing": (framed(GOOD), [("grpc-timeout", "0n")], ("4",)),
}


@SUITE.over(BROKEN)
def what_broken_clients_send(world, case):
    """Its own stream is refused, and others of the connection go on."""
    data, headers, wanted = case
    with Grpc(world.grpc_port) as client:
        held = client.begin(INFER, framed(request("slow", shape=(1, 1), raw=b"\0" * 4).SerializeToString()))
        broken = client.begin(INFER, data, headers)
        answer = client.answer(broken)
        assert answer.status in wanted, f"expected one of {wanted}, got {answer}"
        good = client.answer(client.begin(INFER, framed(GOOD)))
        same(good.status, "0", str(good))
        same(client.answer(held).status, "0")


@SUITE.check
def an_encoding_that_is_not_known_is_told_what_is(world):
    with Grpc(world.grpc_port) as client:
        answer = client.answer(client.begin(INFER, framed(GOOD, 1), [("grpc-encoding", "lz4")]))
        same(answer.status, "12", str(answer))
        assert "gzip" in answer.headers.get("grpc-accept-encoding", ""), answer


@SUITE.check
def an_encoding_of_deflate_is_zlibs(world):
    with Grpc(world.grpc_port) as client:
        answer = client.answer(client.begin(INFER, framed(zlib.compress(GOOD), 1), [("grpc-encoding", "deflate")]))
        same(answer.status, "0", str(answer))


@SUITE.check
def a_content_type_that_is_not_grpcs(world):
    if world.grpc_port == world.port:
        return
    with Grpc(world.grpc_port, content_type="application/json") as client:
        answer = client.answer(client.begin(INFER, json.dumps({}).encode()))
        assert answer.http_status in ("404", "415"), answer
