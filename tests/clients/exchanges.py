"""The golden exchanges in `spec/exchanges`: written here, with the encoders of Triton's clients, and tried on the server.

    target/clients/venv/bin/python tests/clients/exchanges.py --write

What is expected is worked out from what an echo answers, and never taken from a server. `spec/README.md` says how to read the files.
"""

import base64
import json
import math
import struct
import sys

import ml_dtypes
import numpy as np
import tritonclient.http as triton_http
from google.protobuf import json_format
from suite import Suite, same
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype
from values import bits, texts
from wire2 import Grpc
from world import DATATYPES, ROOT, ask

SUITE = Suite("exchanges")
FOLDER = ROOT / "spec" / "exchanges"
MODELS = {**{datatype.lower(): f"echo:{datatype}[-1]" for datatype in DATATYPES}, "two": "echo:a=FP32[2],b=BYTES[1]"}
JSON_TYPE, BINARY_TYPE = "application/json", "application/octet-stream"
LENGTH = "inference-header-content-length"


def outputs_of(model):
    return {"input": "output"} if model != "two" else {"a": "output0", "b": "output1"}


# The form of the files.


def encoded(data):
    return base64.b64encode(data).decode()


def body_of(text, raw=b""):
    """The text, and behind it the bytes."""
    return {**({"text": text.decode()} if text else {}), **({"base64": encoded(raw)} if raw else {})}


def rest(name, model, body, headers, response):
    path = f"/v2/models/{model}/infer"
    return {
        "name": name,
        "request": {"method": "POST", "path": path, "headers": headers, "body": body},
        "response": response,
    }


def echoed(model, arrays, names=None, request_id=None, binary=()):
    """What an echo answers over REST: every output, or those named, of which some are binary."""
    outputs, raw = [], []
    renamed = {outputs_of(model)[name]: array for name, array in arrays.items()}
    for name in names or renamed:
        array = renamed[name]
        output = {"name": name, "datatype": np_to_triton_dtype(array.dtype), "shape": list(array.shape)}
        if name in binary:
            raw.append(raw_of(array))
            output["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            values = array.ravel().tolist()
            output["data"] = [in_json(value) for value in values]
            if words := sum(map(has_no_number, values)):
                output["parameters"] = {"non_finite": words}
        outputs.append(output)
    said = {"model_name": model, "model_version": "1", "outputs": outputs}
    if request_id is not None:
        said["id"] = request_id
    answer = {"status": 200, "headers": {"content-type": BINARY_TYPE if raw else JSON_TYPE}, "json": said}
    return {**answer, "raw": [encoded(data) for data in raw]} if raw else answer


def in_json(value):
    if has_no_number(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value.decode() if isinstance(value, bytes) else value


def has_no_number(value):
    return isinstance(value, float) and not math.isfinite(value)


def raw_of(array):
    if array.dtype == object:
        return b"".join(struct.pack("<I", len(text)) + text for text in array.ravel())
    return array.tobytes()


def refusal(status, code):
    return {"status": status, "headers": {"content-type": JSON_TYPE}, "error": {"code": code}}


# What a request of JSON is, and what becomes of it.

ONE = '{"inputs":[{"name":"input","shape":%s,"datatype":"%s","data":%s}]}'


def plain(name, model, text, arrays=None, refused=None, **more):
    response = echoed(model, arrays, **more) if arrays is not None else refusal(*refused)
    return rest(name, model, body_of(text.encode()), {"content-type": JSON_TYPE}, response)


def one(name, datatype, shape, data, array=None, refused=None):
    arrays = None if array is None else {"input": array}
    return plain(name, datatype.lower(), ONE % (shape, datatype, data), arrays, refused)


INVALID = (400, "invalid_input")
ROW = np.array([[1.5, -2.0, 0.25]], dtype=np.float32)
BOTH = {"a": np.array([[0.5, 2]], dtype=np.float32), "b": texts("h\u00e4".encode())}
BOTH_TEXT = (
    '{"id":"7","inputs":[{"name":"b","shape":[1,1],"datatype":"BYTES","data":["h\u00e4"]},'
    '{"name":"a","shape":[1,2],"datatype":"FP32","data":[[0.5,2]]}]%s}'
)


def rest_json():
    ask_for = '[{"name":"output1"}]'
    return [
        one("numbers", "FP32", "[1,3]", "[1.5,-2,0.25]", ROW),
        one("numbers as deep as the shape", "FP32", "[1,3]", "[[1.5,-2,0.25]]", ROW),
        one(
            "words for what JSON has no number for",
            "FP32",
            "[1,4]",
            '["NaN","Infinity","-Infinity",1]',
            np.array([[math.nan, math.inf, -math.inf, 1]], dtype=np.float32),
        ),
        one("two rows", "INT32", "[2,2]", "[[1,2],[3,4]]", np.array([[1, 2], [3, 4]], dtype=np.int32)),
        one("truth values", "BOOL", "[1,2]", "[true,false]", np.array([[True, False]])),
        one(
            "the ends of INT64",
            "INT64",
            "[1,2]",
            "[-9223372036854775808,9223372036854775807]",
            np.array([[-(2**63), 2**63 - 1]]),
        ),
        one("the end of UINT64", "UINT64", "[1,1]", "[18446744073709551615]", np.array([[2**64 - 1]], dtype=np.uint64)),
        one(
            "texts",
            "BYTES",
            "[1,3]",
            '["","h\u00e4","\\ud83d\\ude00\\n"]',
            texts(b"", "h\u00e4".encode(), "\U0001f600\n".encode()),
        ),
        one("no elements", "FP32", "[1,0]", "[]", np.zeros((1, 0), dtype=np.float32)),
        plain("two inputs in another order, and an id", "two", BOTH_TEXT % "", BOTH, request_id="7"),
        plain("one output of two", "two", BOTH_TEXT % f',"outputs":{ask_for}', BOTH, request_id="7", names=["output1"]),
        plain(
            "keys without a meaning",
            "fp32",
            '{"x":[1,{}],"parameters":{"p":1},' + (ONE % ("[1,1]", "FP32", "[4]"))[1:],
            {"input": np.array([[4]], dtype=np.float32)},
        ),
        one("fewer numbers than the shape says", "FP32", "[1,3]", "[1,2]", refused=INVALID),
        one("more numbers than the shape says", "FP32", "[1,3]", "[1,2,3,4]", refused=INVALID),
        one("uneven nesting", "FP32", "[2,2]", "[[1,2,3],[4]]", refused=INVALID),
        one("a negative shape", "FP32", "[1,-3]", "[1,2,3]", refused=INVALID),
        one("a shape whose size overflows", "FP32", "[4294967296,4294967296]", "[]", refused=INVALID),
        one("an integer out of range", "INT8", "[1,1]", "[128]", refused=INVALID),
        one("an integer with a fraction", "INT32", "[1,1]", "[1.5]", refused=INVALID),
        one("a number for a truth value", "BOOL", "[1,1]", "[1]", refused=INVALID),
        plain("another datatype", "fp32", ONE % ("[1,1]", "INT32", "[1]"), refused=INVALID),
        plain(
            "an unknown input",
            "fp32",
            '{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[1]}]}',
            refused=INVALID,
        ),
        plain(
            "a missing input",
            "two",
            '{"inputs":[{"name":"a","shape":[1,2],"datatype":"FP32","data":[1,2]}]}',
            refused=INVALID,
        ),
        plain(
            "an unknown output",
            "fp32",
            (ONE % ("[1,1]", "FP32", "[1]"))[:-1] + ',"outputs":[{"name":"x"}]}',
            refused=INVALID,
        ),
        plain(
            "a reserved parameter",
            "fp32",
            '{"parameters":{"triton_x":1},' + (ONE % ("[1,1]", "FP32", "[1]"))[1:],
            refused=INVALID,
        ),
        plain("half a body", "fp32", '{"inputs":[', refused=INVALID),
        plain("no inputs", "fp32", "{}", refused=INVALID),
        plain("an unknown model", "nobody", ONE % ("[1,1]", "FP32", "[1]"), refused=(404, "unknown_model")),
        plain(
            "a version that is not there",
            "fp32/versions/9",
            ONE % ("[1,1]", "FP32", "[1]"),
            refused=(404, "unknown_model"),
        ),
    ]


# Requests as Triton's client makes them.


def made(name, model, arrays, binary_in, outputs, request_id="", **more):
    """`binary_in` are the inputs in binary form; `outputs` says for each whether it shall be, or is `None` for all that there are."""
    inputs = [
        triton_http.InferInput(key, list(array.shape), np_to_triton_dtype(array.dtype)) for key, array in arrays.items()
    ]
    for given, (key, array) in zip(inputs, arrays.items()):
        given.set_data_from_numpy(array, binary_data=key in binary_in)
    asked = outputs and [triton_http.InferRequestedOutput(key, binary_data=binary) for key, binary in outputs.items()]
    body, length = triton_http.InferenceServerClient.generate_request_body(
        inputs, outputs=asked, request_id=request_id, **more
    )
    headers = {"content-type": JSON_TYPE} if length is None else {"content-type": BINARY_TYPE, LENGTH: str(length)}
    everything = list(outputs_of(model).values())
    binary = everything if outputs is None else [key for key, is_binary in outputs.items() if is_binary]
    response = echoed(model, arrays, names=outputs and list(outputs), request_id=request_id or None, binary=binary)
    return rest(name, model, body_of(body[:length], body[length or len(body) :]), headers, response)


def broken(name, model, head, raw, length=None, refused=INVALID):
    text = json.dumps(head, separators=(",", ":")).encode()
    headers = {"content-type": BINARY_TYPE, LENGTH: str(len(text) if length is None else length)}
    return rest(name, model, body_of(text, raw), headers, refusal(*refused))


def sized(size, shape=(1, 2), datatype="FP32", **more):
    return {
        "inputs": [
            {
                "name": "input",
                "shape": list(shape),
                "datatype": datatype,
                "parameters": {"binary_data_size": size},
                **more,
            }
        ]
    }


def raw_request(name, model, array, raw):
    """All that there is to say is in the signature: the header says that there is no JSON."""
    response = echoed(model, {"input": array}, binary=["output"])
    return rest(name, model, body_of(b"", raw), {"content-type": BINARY_TYPE, LENGTH: "0"}, response)


def rest_binary():
    special = bits(np.float32, np.uint32, 0x7FC00001, 0xFF800000, 0x80000000)
    unread = texts(b"\xff\xfe", b"", b"\0")
    ones = struct.pack("<2f", 1, 2)
    return [
        made("both ways", "fp32", {"input": ROW}, ["input"], {"output": True}),
        made("in only", "fp32", {"input": ROW}, ["input"], {"output": False}),
        made("in only, numbers that JSON does not have", "fp32", {"input": special}, ["input"], {"output": False}),
        made("out only", "fp32", {"input": ROW}, [], {"output": True}),
        made(
            "the nearest number there is", "fp32", {"input": np.array([[0.1]], dtype=np.float32)}, [], {"output": True}
        ),
        made("all outputs, asked for by one parameter", "two", BOTH, ["a", "b"], None, request_id="q"),
        made("mixed both ways", "two", BOTH, ["b"], {"output1": False, "output0": True}),
        made("the bits of numbers that are none", "fp32", {"input": special}, ["input"], {"output": True}),
        made("halves", "fp16", {"input": np.array([[1.5, -0.0]], dtype=np.float16)}, ["input"], {"output": True}),
        made(
            "brain floats",
            "bf16",
            {"input": np.array([[1.5, -3]], dtype=ml_dtypes.bfloat16)},
            ["input"],
            {"output": True},
        ),
        made("truth values", "bool", {"input": np.array([[True, False, True]])}, ["input"], {"output": True}),
        made("bytes that are no text", "bytes", {"input": unread}, ["input"], {"output": True}),
        made("no elements", "fp64", {"input": np.zeros((1, 0))}, ["input"], {"output": True}),
        raw_request("a raw request", "fp32", np.array([[1, 2]], dtype=np.float32), ones),
        raw_request("a raw request of bytes", "bytes", texts(b"\xff!"), b"\xff!"),
        broken("a size that is not the shape's", "fp32", sized(4), ones[:4]),
        broken("fewer bytes than are declared", "fp32", sized(8), ones[:7]),
        broken("more bytes than are declared", "fp32", sized(8), ones + b"\0"),
        broken("both forms of one tensor", "fp32", sized(8, data=[1, 2]), ones),
        broken("a length beyond the body", "fp32", sized(8), ones, length=4096),
        broken("a length that is no number", "fp32", sized(8), ones, length="ten"),
        broken("an element that runs past the end", "bytes", sized(8, (1, 1), "BYTES"), b"\xff\0\0\0abcd"),
        broken("fewer elements than the shape says", "bytes", sized(5, (1, 2), "BYTES"), b"\1\0\0\0a"),
        broken("a byte that is no truth value", "bool", sized(1, (1, 1), "BOOL"), b"\2"),
    ]


# gRPC.


def called(name, request, response=None, status=0, code=None):
    """Messages stand in Base64 and, for people, as JSON."""
    exchange = {
        "name": name,
        "method": "/inference.GRPCInferenceService/ModelInfer",
        "request": message_of(request),
        "status": status,
    }
    return {**exchange, "response": message_of(response)} if response is not None else {**exchange, "code": code}


def message_of(message):
    readable = json.loads(json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None))
    return {"base64": encoded(message.SerializeToString(deterministic=True)), "readable": readable}


def of_numpy(message, tensors, arrays, raw):
    for name, array in arrays.items():
        tensors.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        raw.append(raw_of(array))
    return message


def raw_call(name, model, arrays, **more):
    request = service_pb2.ModelInferRequest(model_name=model, **more)
    of_numpy(request, request.inputs, arrays, request.raw_input_contents)
    response = service_pb2.ModelInferResponse(model_name=model, model_version="1", id=more.get("id", ""))
    renamed = {outputs_of(model)[key]: array for key, array in arrays.items()}
    return called(name, request, of_numpy(response, response.outputs, renamed, response.raw_output_contents))


def typed_call(name, datatype, field, elements):
    request = typed(datatype, field, elements)
    response = service_pb2.ModelInferResponse(model_name=datatype.lower(), model_version="1")
    output = response.outputs.add(name="output", datatype=datatype, shape=[1, len(elements)])
    getattr(output.contents, field).extend(elements)
    return called(name, request, response)


def typed(datatype, field, elements, count=None, model=None):
    request = service_pb2.ModelInferRequest(model_name=datatype.lower() if model is None else model)
    given = request.inputs.add(name="input", datatype=datatype, shape=[1, len(elements) if count is None else count])
    getattr(given.contents, field).extend(elements)
    return request


def grpc_calls():
    both = typed("FP32", "fp32_contents", [1])
    both.raw_input_contents.append(b"\0\0\x80?")
    short = service_pb2.ModelInferRequest(model_name="fp32", raw_input_contents=[b"\0" * 7])
    short.inputs.add(name="input", datatype="FP32", shape=[1, 2])
    return [
        raw_call("raw", "fp32", {"input": ROW}),
        raw_call("raw, two inputs and an id", "two", BOTH, id="7"),
        raw_call(
            "raw, the bits of numbers that are none",
            "fp64",
            {"input": bits(np.float64, np.uint64, 0x7FF8000000000001, 0xFFF << 52)},
        ),
        raw_call("raw halves", "fp16", {"input": np.array([[1.5, -0.0]], dtype=np.float16)}),
        raw_call("raw, bytes that are no text", "bytes", {"input": texts(b"\xff\xfe", b"")}),
        typed_call("typed truth values", "BOOL", "bool_contents", [True, False]),
        typed_call("typed small integers", "INT8", "int_contents", [-128, 127]),
        typed_call("typed unsigned integers", "UINT32", "uint_contents", [0, 2**32 - 1]),
        typed_call("typed long integers", "INT64", "int64_contents", [-(2**63), 2**63 - 1]),
        typed_call("typed unsigned long integers", "UINT64", "uint64_contents", [2**64 - 1]),
        typed_call("typed numbers", "FP32", "fp32_contents", [1.5, -2.0, math.inf]),
        typed_call("typed long numbers", "FP64", "fp64_contents", [0.1]),
        typed_call("typed bytes", "BYTES", "bytes_contents", [b"\xff", b"", b"a"]),
        called("raw and typed at once", both, status=3, code="invalid_input"),
        called("raw of another size", short, status=3, code="invalid_input"),
        called("typed in another type's field", typed("FP32", "fp64_contents", [1]), status=3, code="invalid_input"),
        called("a small integer out of range", typed("INT8", "int_contents", [128]), status=3, code="invalid_input"),
        called(
            "fewer elements than the shape says",
            typed("FP32", "fp32_contents", [1], count=2),
            status=3,
            code="invalid_input",
        ),
        called("an unknown model", typed("FP32", "fp32_contents", [1], model="nobody"), status=5, code="unknown_model"),
    ]


FILES = {
    "rest_json.json": ("Inference over REST with tensors in JSON, and requests that must be refused.", rest_json),
    "rest_binary.json": ("Inference over REST with tensors in binary form.", rest_binary),
    "grpc.json": ("Inference over gRPC: raw and typed contents.", grpc_calls),
}


def rendered(name):
    about, exchanges = FILES[name]
    document = {"about": about, "models": MODELS, "exchanges": exchanges()}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


# The checks.


@SUITE.over({name: name for name in FILES})
def the_files_are_those_that_are_written_here(world, name):
    assert (FOLDER / name).read_text() == rendered(name), (
        "run tests/clients/exchanges.py --write and look at what has changed"
    )


def exchanges_of(name):
    return {exchange["name"]: exchange for exchange in json.loads((FOLDER / name).read_text())["exchanges"]}


def data_of(body):
    return body.get("text", "").encode() + base64.b64decode(body.get("base64", ""))


def over_rest(world, exchange):
    given, wanted = exchange["request"], exchange["response"]
    headers = [f"{name}: {value}" for name, value in given["headers"].items()]
    answer = ask(world.port, given["method"], given["path"], data_of(given["body"]), headers, content_type=None)
    same(answer.status, wanted["status"], answer.body)
    for name, value in wanted["headers"].items():
        same(answer.headers.get(name), value, name)
    if "error" in wanted:
        same(answer.code, wanted["error"]["code"], answer.body)
        return
    raw = [base64.b64decode(part) for part in wanted.get("raw", [])]
    size = int(answer.headers[LENGTH]) if raw else len(answer.body)
    same(json.loads(answer.body[:size]), wanted["json"])
    same(answer.body[size:], b"".join(raw))
    read_by_the_client(answer.body, size if raw else None, wanted, raw)


def read_by_the_client(body, size, wanted, raw):
    """Triton's own decoder must read the same."""
    result = triton_http.InferenceServerClient.parse_response_body(body, header_length=size)
    rest_of_raw = list(raw)
    for output in wanted["json"]["outputs"]:
        got = result.as_numpy(output["name"])
        assert got is not None, output
        same(list(got.shape), output["shape"])
        if "data" not in output:
            same(raw_of(got), rest_of_raw.pop(0))


@SUITE.over(exchanges_of("rest_json.json") if FOLDER.exists() else {})
def rest_with_json(world, exchange):
    over_rest(world, exchange)


@SUITE.over(exchanges_of("rest_binary.json") if FOLDER.exists() else {})
def rest_with_binary_tensors(world, exchange):
    over_rest(world, exchange)


@SUITE.over(exchanges_of("grpc.json") if FOLDER.exists() else {})
def grpc(world, exchange):
    request = base64.b64decode(exchange["request"]["base64"])
    with Grpc(world.grpc_port) as client:
        answer = client.answer(client.begin(exchange["method"], struct.pack(">BI", 0, len(request)) + request))
    same(answer.status, str(exchange["status"]), str(answer))
    if "code" in exchange:
        same((answer.trailers or answer.headers).get("jitney-code"), exchange["code"])
        return
    wanted = service_pb2.ModelInferResponse.FromString(base64.b64decode(exchange["response"]["base64"]))
    same(service_pb2.ModelInferResponse.FromString(answer.body[5:]), wanted)


if __name__ == "__main__":
    assert sys.argv[1:] == ["--write"], __doc__
    FOLDER.mkdir(exist_ok=True)
    for file in FILES:
        (FOLDER / file).write_text(rendered(file))
