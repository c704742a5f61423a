"""What Triton's HTTP client does not ask, or hides: the bytes of the binary form, raw requests, encodings, bodies of health."""

import gzip
import http.client
import json
import struct
import zlib

from suite import Suite, same
from world import ask

SUITE = Suite("plain HTTP")
LENGTH = "inference-header-content-length"
ONES = struct.pack("<4f", 1, 2, 3, 4)


def post(world, model, head, raw=b"", headers=(), length=None, encode=None):
    """A request in the binary form; `head` is text or what JSON makes of it."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    body = text + raw
    body = encode(body) if encode else body
    lines = [f"Inference-Header-Content-Length: {len(text) if length is None else length}", *headers]
    return ask(world.port, "POST", f"/v2/models/{model}/infer", body, lines, content_type="application/octet-stream")


def parts(answer):
    """The JSON of an answer, and its raw tensors by their names."""
    size = int(answer.headers[LENGTH])
    head, rest, raw = json.loads(answer.body[:size]), answer.body[size:], {}
    for output in head["outputs"]:
        length = output.get("parameters", {}).get("binary_data_size")
        if length is not None:
            assert "data" not in output, output
            raw[output["name"]], rest = rest[:length], rest[length:]
    same(rest, b"", "what is left behind the tensors")
    return head, raw


def tensor(size: object = 16, shape=(1, 4), name="input", datatype="FP32", **more):
    sized = {"parameters": {"binary_data_size": size}} if size is not None else {}
    return {"name": name, "shape": list(shape), "datatype": datatype, **sized, **more}


@SUITE.check
def binary_answers(world):
    answer = post(world, "fp32", {"inputs": [tensor()], "parameters": {"binary_data_output": True}}, ONES)
    same(answer.status, 200, answer.body)
    same(answer.headers["content-type"], "application/octet-stream")
    head, raw = parts(answer)
    same(raw, {"output": ONES})
    same(
        head["outputs"][0],
        {"name": "output", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}},
    )


@SUITE.check
def json_answers_have_no_header_of_the_binary_form(world):
    answer = post(world, "fp32", {"inputs": [tensor()]}, ONES)
    same((answer.status, answer.headers["content-type"]), (200, "application/json"))
    assert LENGTH not in answer.headers, answer.headers
    same(answer.json()["outputs"][0]["data"], [1, 2, 3, 4])


@SUITE.check
def outputs_that_are_listed_say_themselves_how(world):
    wanted = {"parameters": {"binary_data_output": True}, "outputs": [{"name": "output"}]}
    answer = post(world, "fp32", {"inputs": [tensor()], **wanted}, ONES)
    same((answer.status, answer.json()["outputs"][0]["data"]), (200, [1, 2, 3, 4]))


@SUITE.check
def raw_requests(world):
    """A length of zero: the body is the only input, and all that is known of it is in the signature."""
    for model, body, shape in (
        ("fp32", ONES, [1, 4]),
        ("bytes", b"\xff not a text \0", [1, 1]),
        ("whole", b"\1\2\3", [3]),
    ):
        answer = post(world, model, b"", body, length=0)
        same(answer.status, 200, answer.body)
        head, raw = parts(answer)
        same(head["outputs"][0]["shape"], shape, model)
        wanted = body if model != "bytes" else struct.pack("<I", len(body)) + body
        same(raw["output"], wanted, model)


@SUITE.check
def raw_requests_need_one_input(world):
    answer = post(world, "mixed", b"", ONES, length=0)
    same((answer.status, answer.code), (400, "invalid_input"), answer.body)


def bytes_of(*elements):
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


# The model, the JSON, the tensors and what else is said; the refusal must have the word.
FAULTY = {
    "a size that is not the shape's": ("fp32", {"inputs": [tensor(12)]}, ONES[:12], {}, "16"),
    "fewer bytes than are declared": ("fp32", {"inputs": [tensor()]}, ONES[:15], {}, "15"),
    "more bytes than are declared": ("fp32", {"inputs": [tensor()]}, ONES + b"\0", {}, "bytes"),
    "bytes that nobody claims": ("fp32", {"inputs": [tensor(None, data=[1, 2, 3, 4])]}, ONES, {}, "bytes"),
    "both forms of one tensor": ("fp32", {"inputs": [tensor(data=[1, 2, 3, 4])]}, ONES, {}, "data"),
    "neither form": ("fp32", {"inputs": [tensor(None)]}, b"", {}, "data"),
    "a negative size": ("fp32", {"inputs": [tensor(-16)]}, ONES, {}, "binary_data_size"),
    "a size that is a text": ("fp32", {"inputs": [tensor("16")]}, ONES, {}, "binary_data_size"),
    "a size beyond all memory": ("fp32", {"inputs": [tensor(2**63)]}, ONES, {}, "binary_data_size|bytes|16"),
    "a length beyond the body": ("fp32", {"inputs": [tensor()]}, ONES, {"length": 5000}, "length"),
    "a length that is no number": ("fp32", {"inputs": [tensor()]}, ONES, {"length": "ten"}, "Length"),
    "a negative length": ("fp32", {"inputs": [tensor()]}, ONES, {"length": -1}, "Length"),
    "a length that cuts the JSON": ("fp32", {"inputs": [tensor()]}, ONES, {"length": 20}, ""),
    "a text that runs past the end": (
        "bytes",
        {"inputs": [tensor(8, (1, 1), datatype="BYTES")]},
        b"\xff\0\0\0abcd",
        {},
        "",
    ),
    "half a prefix": ("bytes", {"inputs": [tensor(2, (1, 1), datatype="BYTES")]}, b"\1\0", {}, ""),
    "too few texts": ("bytes", {"inputs": [tensor(5, (1, 2), datatype="BYTES")]}, bytes_of(b"a"), {}, ""),
    "too many texts": ("bytes", {"inputs": [tensor(10, (1, 1), datatype="BYTES")]}, bytes_of(b"a", b"b"), {}, ""),
    "a truth value of two": ("bool", {"inputs": [tensor(1, (1, 1), datatype="BOOL")]}, b"\2", {}, ""),
    "two lengths": ("fp32", {"inputs": [tensor()]}, ONES, {"headers": ["Inference-Header-Content-Length: 7"]}, ""),
}


@SUITE.over(FAULTY)
def binary_requests_that_are_refused(world, case):
    model, head, raw, more, words = case
    answer = post(world, model, head, raw, **more)
    same((answer.status, answer.code), (400, "invalid_input"), answer.body)
    assert any(word in answer.error for word in words.split("|")), f"expected {words!r} in {answer.error!r}"


@SUITE.over({"gzip": ("gzip", gzip.compress), "deflate": ("deflate", zlib.compress)})
def encodings_of_both_forms(world, case):
    name, encode = case
    headers = [f"Content-Encoding: {name}", f"Accept-Encoding: {name}"]
    values = [0.25] * 4096
    head = {"inputs": [tensor(4 * 4096, (1, 4096))], "parameters": {"binary_data_output": True}}
    answer = post(world, "fp32", head, struct.pack("<4096f", *values), headers, encode=encode)
    same((answer.status, answer.headers.get("content-encoding")), (200, name), answer.body[:300])
    same(answer.headers.get("vary", "").lower(), "accept-encoding")
    answer.body = (gzip.decompress if name == "gzip" else zlib.decompress)(answer.body)
    same(parts(answer)[1]["output"], struct.pack("<4096f", *values))


@SUITE.over({"gzip": ("gzip", gzip.compress), "deflate": ("deflate", zlib.compress)})
def bombs(world, case):
    name, encode = case
    body = encode(b"[" + b"1," * (64 << 20))
    answer = ask(world.port, "POST", "/v2/models/fp32/infer", body, [f"Content-Encoding: {name}"])
    same((answer.status, answer.code), (413, "too_large"), answer.body)
    broken = encode(json.dumps({"inputs": []}).encode())[:-6]
    answer = ask(world.port, "POST", "/v2/models/fp32/infer", broken, [f"Content-Encoding: {name}"])
    same((answer.status, answer.code), (400, "invalid_input"), answer.body)


@SUITE.check
def unknown_encodings(world):
    answer = ask(world.port, "POST", "/v2/models/fp32/infer", b"x", ["Content-Encoding: br"])
    same((answer.status, answer.code), (415, "unsupported_media_type"), answer.body)


@SUITE.check
def reserved_parameters(world):
    head = {"inputs": [tensor()], "parameters": {"triton_enable_empty_final_response": True}}
    answer = post(world, "fp32", head, ONES)
    same((answer.status, answer.code), (400, "invalid_input"), answer.body)
    assert "triton_" in answer.error, answer.error


@SUITE.check
def bodies_of_health(world):
    """KServe's client reads them."""
    for path, wanted in {"live": {"live": True}, "ready": {"ready": True}}.items():
        answer = ask(world.port, "GET", f"/v2/health/{path}")
        same((answer.status, answer.json()), (200, wanted))


@SUITE.check
def models_are_listed(world):
    answer = ask(world.port, "GET", "/v2/models")
    assert {"fp32", "digits"} <= set(answer.json()["models"]), answer.body


@SUITE.check
def generate(world):
    answer = ask(
        world.port,
        "POST",
        "/v2/models/count/generate",
        json.dumps({"upto": 1, "fail_at": -1, "pause_ms": 0, "id": "g"}),
    )
    same(answer.status, 200, answer.body)
    said = answer.json()
    same(
        {key: said[key] for key in ("id", "model_name", "model_version", "value")},
        {"id": "g", "model_name": "count", "model_version": "1", "value": 0},
    )
    many = ask(world.port, "POST", "/v2/models/count/generate", json.dumps({"upto": 3, "fail_at": -1, "pause_ms": 0}))
    same((many.status, many.code), (400, "invalid_input"), many.body)


def events(world, path, body):
    """The events of an answer that ends, as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=30)
    connection.request(
        "POST", path, json.dumps(body), {"Content-Type": "application/json", "Accept": "text/event-stream"}
    )
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    if answer.status != 200:
        return answer.status, json.loads(text)
    same(answer.headers.get_content_type(), "text/event-stream")
    blocks = [block for block in text.split("\n\n") if block.strip()]
    data = ["\n".join(line[5:].strip() for line in block.split("\n") if line.startswith("data:")) for block in blocks]
    return 200, [json.loads(line) for line in data if line]


@SUITE.check
def generate_stream(world):
    status, said = events(world, "/v2/models/count/generate_stream", {"upto": 4, "fail_at": -1, "pause_ms": 1})
    same((status, [event["value"] for event in said]), (200, [0, 1, 2, 3]))
    status, said = events(world, "/v2/models/count/generate_stream", {"upto": 4, "fail_at": 2, "pause_ms": 1})
    same((status, [event.get("value") for event in said[:2]]), (200, [0, 1]))
    assert "told to fail at 2" in said[-1]["error"], said
    status, said = events(world, "/v2/models/count/generate_stream", {"upto": 4, "fail_at": 0, "pause_ms": 1})
    same((status, said["code"]), (500, "model_error"))


@SUITE.check
def generate_with_texts(world):
    given = {"text_input": "one two \u00e4", "parameters": {"max_tokens": 20, "temperature": 0.5}}
    status, said = events(world, "/v2/models/tokens/generate_stream", given)
    same((status, [event["text_output"] for event in said]), (200, ["one", "two", "\u00e4"]))
