"""What is asked for and how it is refused, one row a check. Nothing here talks to a server."""

import gzip
import json
import zlib

from wire import chunked, request

MIB = 1 << 20
JSON_TYPE = "application/json"
PREDICT, BATCH, INFER = "/predict/{}", "/predict/{}/batch", "/v2/models/{}/infer"
POST, GET = "POST", "GET"
GOOD = "[1,2,3,4]"
SOCKET = ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]


def infer(shape="[1,4]", data="[1,2,3,4]", datatype='"FP32"', name='"input"', more="", top=""):
    return f'{{{top}"inputs":[{{"name":{name},"shape":{shape},"datatype":{datatype},"data":{data}{more}}}]}}'


def raw(size, shape="[1,4]", datatype='"FP32"', more=""):
    """A request of which the tensor stands behind the JSON."""
    parameters = f'"parameters":{{"binary_data_size":{size}}}'
    return f'{{"inputs":[{{"name":"input","shape":{shape},"datatype":{datatype},{parameters}{more}}}]}}'


def nested(depth):
    """JSON bodies with that many brackets, for each route and each place in it."""
    arrays, objects = "[" * depth, '{"a":' * depth
    return {
        "predict": ("/predict/echo", arrays),
        "predict, objects": ("/predict/echo", objects),
        "predict, in the input": ("/predict/echo", '{"input":' + arrays),
        "predict, closed": ("/predict/echo", arrays + "]" * depth),
        "batch": ("/predict/echo/batch", arrays),
        "batch, in an item": ("/predict/echo/batch", '[{"a":' + arrays),
        "infer": ("/v2/models/echo/infer", arrays),
        "infer, objects": ("/v2/models/echo/infer", objects),
        "infer, unknown key": ("/v2/models/echo/infer", '{"x":' + arrays),
        "infer, parameters": ("/v2/models/echo/infer", '{"parameters":{"a":' + arrays),
        "infer, inputs": ("/v2/models/echo/infer", '{"inputs":' + arrays),
        "infer, data": ("/v2/models/echo/infer", infer(data=arrays)),
        "infer, data before its shape": ("/v2/models/echo/infer", '{"inputs":[{"data":' + arrays),
        "generate": ("/v2/models/echo/generate", arrays),
        "generate, in the input": ("/v2/models/echo/generate", '{"input":' + arrays),
        "generate_stream": ("/v2/models/echo/generate_stream", objects),
        "predict, as a stream": ("/predict/echo/stream", arrays),
        "infer, outputs": ("/v2/models/echo/infer", '{"outputs":' + arrays),
    }


# Rows stay on their lines.
# fmt: off
# What is wrong, the model and the kind of its route, the body, and what the text says beside the field.
BODIES = [
    # B03
    ("not UTF-8", PREDICT, "echo", b'{"input":[1,2,3,\xff]}', "UTF-8"),
    ("not UTF-8 in a string", INFER, "word", infer('["\\u00ff"]', "x").encode("latin-1") + b"\xe9", "UTF-8"),
    ("overlong UTF-8", PREDICT, "word", b'["\xc0\xaf"]', "UTF-8"),
    ("a lone surrogate", PREDICT, "word", r'["\ud800"]', r"\[0\].*surrogates"),
    ("a lone surrogate in the id", INFER, "echo", infer(top=r'"id":"\udc00",'), "id"),
    ("half a surrogate pair", PREDICT, "word", r'["\ud800\u0041"]', "surrogates"),
    ("NUL before the body", PREDICT, "echo", b"\0[1,2,3,4]", "body|input"),
    ("NUL behind the body", PREDICT, "echo", b"[1,2,3,4]\0", "nothing after"),
    ("NUL in a string", PREDICT, "word", b'["\0"]', "control character"),
    ("a byte order mark", PREDICT, "echo", b"\xef\xbb\xbf[1,2,3,4]", "byte order mark"),
    ("UTF-16", PREDICT, "echo", "[1,2,3,4]".encode("utf-16"), "UTF-8"),
    # B04
    ("an empty body", PREDICT, "echo", b"", "empty"),
    ("an empty body", BATCH, "echo", b"", "empty"),
    ("an empty body", INFER, "echo", b"", "empty"),
    ("only spaces", INFER, "echo", b"  \r\n\t", "empty"),
    ("trailing bytes", PREDICT, "echo", "[1,2,3,4] x", "nothing after"),
    ("trailing bytes", BATCH, "echo", "[[1,2,3,4]] [", "nothing after"),
    ("trailing bytes", INFER, "echo", infer() + "{}", "nothing after"),
    ("a body cut off", INFER, "echo", infer()[:-3], "end of the body"),
    ("a key twice", INFER, "echo", infer(top='"id":"a","id":"b",'), "id.*twice"),
    ("a key of an input twice", INFER, "echo", infer(more=',"data":[1,2,3,4]'), r"inputs\[0\].*data.*twice"),
    ("a key of an item twice", PREDICT, "echo", '{"input":[1,2,3,4],"input":[1,2,3,4]}', "input.*twice"),
    ("an escaped key twice", INFER, "echo", infer(top=r'"id":"a","\u0069d":"b",'), "id.*twice"),
    ("an unknown input", PREDICT, "echo", '{"pixels":[1,2,3,4]}', '"input".*"pixels"'),
    ("no input", PREDICT, "echo", "{}", '"input"'),
    ("an array for a request", INFER, "echo", "[]", "inputs"),
    ("no inputs", INFER, "echo", "{}", "inputs"),
    ("inputs that are null", INFER, "echo", '{"inputs":null}', "inputs"),
    ("inputs that are an object", INFER, "echo", '{"inputs":{}}', "inputs"),
    ("inputs without any", INFER, "echo", '{"inputs":[]}', 'inputs.*"input"'),
    ("an input that is a number", INFER, "echo", '{"inputs":[1]}', r"inputs\[0\]"),
    ("an input without a name", INFER, "echo", '{"inputs":[{"shape":[1,4],"datatype":"FP32","data":[]}]}', "name"),
    ("an input without a shape", INFER, "echo", '{"inputs":[{"name":"input","datatype":"FP32","data":[]}]}', "shape"),
    ("an input without data", INFER, "echo", '{"inputs":[{"name":"input","shape":[1,4],"datatype":"FP32"}]}', "data"),
    ("an unknown input", INFER, "echo", infer(name='"pixels"'), r"inputs\[0\]\.name"),
    ("a name that is a number", INFER, "echo", infer(name="7"), r"inputs\[0\]\.name"),
    ("an id that is a number", INFER, "echo", infer(top='"id":7,'), "id"),
    ("parameters that are a list", INFER, "echo", infer(top='"parameters":[],'), "parameters"),
    ("a timeout that is text", INFER, "echo", infer(top='"parameters":{"timeout":"1"},'), "parameters.timeout"),
    ("a timeout below zero", INFER, "echo", infer(top='"parameters":{"timeout":-1},'), "parameters.timeout"),
    ("a reserved parameter", INFER, "echo", infer(top='"parameters":{"triton_x":1},'), "parameters.triton_x"),
    ("an unknown output", INFER, "echo", infer(top='"outputs":[{"name":"x"}],'), r"outputs\[0\]\.name"),
    ("an output twice", INFER, "echo", infer(top='"outputs":[{"name":"output"},{"name":"output"}],'), r"outputs\[1\]"),
    ("an output without a name", INFER, "echo", infer(top='"outputs":[{}],'), r"outputs\[0\]\.name"),
    ("items that are an object", BATCH, "echo", "{}", "array of items"),
    # B05
    ("a shape beyond 2^60", INFER, "echo", infer("[16,1152921504606846978]"), "shape"),
    ("a shape whose product wraps to 8", INFER, "free", infer("[4,1152921504606846978]", "[1,2,3,4,5,6,7,8]"), "shape|data"),
    ("a shape of 2^32 x 2^32", INFER, "free", infer("[4294967296,4294967296]", "[]"), "shape|data"),
    ("a shape of 2^40 rows", INFER, "free", infer("[1099511627776,1]", "[1]"), "data"),
    ("a shape of 2^64", INFER, "free", infer("[18446744073709551616]", "[]"), r"shape\[0\]"),
    ("a size below zero", INFER, "echo", infer("[-1,4]"), r"shape\[0\]"),
    ("a size with a fraction", INFER, "echo", infer("[1.0,4]"), r"shape\[0\]"),
    ("1,000 dimensions", INFER, "echo", infer("[" + ",".join("1" * 1000) + "]"), "shape.*32 dimensions"),
    ("no rows", INFER, "echo", infer("[0,4]", "[]"), "shape.*row"),
    ("no batch axis", INFER, "echo", infer("[4]"), "shape.*rows"),
    # B07
    ("one value too few", INFER, "echo", infer(data="[1,2,3]"), r"data.*4.*3"),
    ("one value too many", INFER, "echo", infer(data="[1,2,3,4,5]"), r"data.*4.*more"),
    ("one value too few", PREDICT, "echo", "[1,2,3]", "input|body"),
    ("one value too many", PREDICT, "echo", "[1,2,3,4,5]", "input|body"),
    ("ragged nesting", INFER, "square", infer("[1,2,2]", "[[[1,2],[3]]]"), r"data\[0\]\[1\]"),
    ("ragged nesting", PREDICT, "square", "[[1,2],[3,4,5]]", r"\[1\]"),
    ("too deep nesting", INFER, "square", infer("[1,2,2]", "[[[[1],2],[3,4]]]"), r"data\[0\]\[0\]\[0\]"),
    ("flat after nested", INFER, "square", infer("[1,2,2]", "[[[1,2],3,4]]"), r"data\[0\]\[1\]"),
    # B08
    ("an unknown datatype", INFER, "echo", infer(datatype='"FLOAT"'), "datatype"),
    ("a datatype that is a number", INFER, "echo", infer(datatype="1"), "datatype"),
    ("another datatype than the model's", INFER, "echo", infer(datatype='"FP64"'), "datatype.*FP32.*FP64"),
    ("256 for UINT8", INFER, "byte", infer("[1,2]", "[1,256]", '"UINT8"'), r"data\[1\].*256"),
    ("-1 for UINT8", INFER, "byte", infer("[1,2]", "[-1,1]", '"UINT8"'), r"data\[0\].*-1"),
    ("1.5 for UINT8", PREDICT, "byte", "[1.5,1]", r"\[0\].*1\.5"),
    ("1e2 for UINT8", PREDICT, "byte", "[1e2,1]", r"\[0\].*1e2"),
    ("true for UINT8", PREDICT, "byte", "[true,1]", r"\[0\].*true"),
    ("text for UINT8", PREDICT, "byte", '["1",1]', r"\[0\]"),
    ("2^63 for INT64", PREDICT, "long", "[9223372036854775808]", r"\[0\]"),
    ("2^64 for INT64", PREDICT, "long", "[18446744073709551616]", r"\[0\]"),
    ("a number of 400 digits", PREDICT, "long", f"[{'9' * 400}]", r"\[0\]"),
    ("1e400 for FP32", PREDICT, "echo", "[1e400,1,1,1]", r"\[0\].*1e400"),
    ("1e39 for FP32", PREDICT, "echo", "[1e39,1,1,1]", r"\[0\].*1e39"),
    ("an exponent beyond counting", PREDICT, "echo", f"[1e{'9' * 400},1,1,1]", r"\[0\]"),
    ("a leading zero", PREDICT, "echo", "[01,1,1,1]", r"\[0\]"),
    ("a hexadecimal number", PREDICT, "echo", "[0x1,1,1,1]", "input|body"),
    ("FP16 as the protocol's JSON", INFER, "half", infer("[1,2]", "[1,2]", '"FP16"'), "data.*/predict"),
    ("BF16 as the protocol's JSON", INFER, "brain", infer("[1,2]", "[1,2]", '"BF16"'), "data.*/predict"),
    ("70000 for FP16", PREDICT, "half", "[70000,1]", r"\[0\].*70000"),
    ("base64 that is none", INFER, "word", infer("[1,1]", '["?"]', '"BYTES"', more=',"parameters":{"content_type":"base64"}'), "data"),
    ("a number for BYTES", PREDICT, "word", "[1]", r"\[0\].*BYTES"),
    ("data twice", INFER, "echo", infer(more=',"parameters":{"binary_data_size":16}'), r"inputs\[0\].*binary_data_size"),
    ("raw bytes without the header", INFER, "echo", raw(16), r"binary_data_size.*Inference-Header-Content-Length"),
    ("binary output that is no switch", INFER, "echo", infer(top='"parameters":{"binary_data_output":1},'), "binary_data_output.*true or false"),
    ("a name that is reserved", INFER, "echo", infer(top='"parameters":{"triton_x":1},'), "triton_x"),
    ("a priority below 0", INFER, "echo", infer(top='"parameters":{"priority":-1},'), "priority.*-1"),
    ("a timeout that is text", INFER, "echo", infer(top='"parameters":{"timeout":"1"},'), "timeout"),
    ("a sequence that is none", INFER, "echo", infer(top='"parameters":{"sequence_start":1},'), "sequence_start"),
    ("classes of strings", INFER, "word", infer("[1,1]", '["a"]', '"BYTES"')[:-1] + ',"outputs":[{"name":"output","parameters":{"classification":1}}]}', "classification.*BYTES"),
    ("classes below 0", INFER, "echo", infer()[:-1] + ',"outputs":[{"name":"output","parameters":{"classification":-1}}]}', "classification"),
    ("shared memory", INFER, "echo", infer(more=',"parameters":{"shared_memory_region":"x"}'), "shared_memory_region"),
    # B12
    (
        "inputs of different rows",
        INFER,
        "two",
        '{"inputs":[{"name":"a","shape":[1,2],"datatype":"FP32","data":[1,2]},{"name":"b","shape":[2,1],"datatype":"INT64","data":[1,2]}]}',
        'rows.*"a".*"b"',
    ),
    ("more rows than a batch may have", INFER, "echo", infer("[33,4]", json.dumps([0] * 132)), "33 rows.*32"),
    ("an input twice", INFER, "echo", '{"inputs":[' + infer()[11:-2] + "," + infer()[11:-2] + "]}", r"inputs\[1\].*twice"),
    ("an input that is missing", INFER, "two", infer("[1,2]", "[1,2]", name='"a"'), '"b".*missing'),
]

def lengths(*values):
    return b"".join(value.to_bytes(4, "little") for value in values)


# What is wrong, the model, the JSON, the raw bytes behind it, and what the text says beside the field.
RAW = [
    # B09
    ("a size that is not the shape's", "echo", raw(15), b"a" * 15, r"inputs\[0\].*binary_data_size: expected 16 bytes.*got 15"),
    ("a size beyond the body", "echo", raw(16), b"a" * 15, r"inputs\[0\].*binary_data_size: expected at most 15.*got 16"),
    ("a size of 2^63", "echo", raw(1 << 63), b"a" * 16, "binary_data_size: expected at most 16"),
    ("a size of 2^64", "echo", raw(1 << 64), b"a" * 16, "binary_data_size: expected a number of bytes"),
    ("a size below 0", "echo", raw(-16), b"a" * 16, "binary_data_size: expected a number of bytes"),
    ("a size that is text", "echo", raw('"16"'), b"a" * 16, "binary_data_size: expected a number of bytes"),
    ("bytes left over", "echo", raw(16), b"a" * 17, "behind the JSON.*1 more"),
    ("bytes that no input wants", "echo", infer(), b"a", "behind the JSON.*1 more"),
    ("data twice", "echo", raw(16, more=',"data":[1,2,3,4]'), b"a" * 16, r"inputs\[0\].data.*both"),
    ("no bytes at all", "echo", raw(0), b"", "binary_data_size: expected 16 bytes.*got 0"),
    ("two bytes for a BOOL", "yes", raw(2, "[1,1]", '"BOOL"'), b"\0\1", "binary_data_size: expected 1 bytes"),
    ("2 for a BOOL", "yes", raw(1, "[1,1]", '"BOOL"'), b"\2", r"inputs\[0\]"),
    ("a length beyond the end", "word", raw(5, "[1,1]", '"BYTES"'), lengths(2) + b"a", r"data\[0\]: expected the 2 bytes.*got 1"),
    ("a length of 4 GiB", "word", raw(4, "[1,1]", '"BYTES"'), lengths(0xFFFFFFFF), r"data\[0\]: expected the 4294967295 bytes"),
    ("lengths whose sum is 4 GiB", "word", raw(12, "[2,1]", '"BYTES"'), lengths(4, 0, 0xFFFFFFF8), r"inputs\[0\].data"),
    ("an element too few", "word", raw(4, "[2,1]", '"BYTES"'), lengths(0), "data: expected 2 elements"),
    ("an element too many", "word", raw(8, "[1,1]", '"BYTES"'), lengths(0, 0), "data: expected 1 element .*4 bytes more"),
    ("half a length", "word", raw(3, "[1,1]", '"BYTES"'), b"\0\0\0", "data: expected 1 element "),
    # B05
    ("a shape of 2^60 and more", "free", raw(16, "[16,1152921504606846978]"), b"a" * 16, r"inputs\[0\]"),
    ("a shape of 2^32 by 2^32", "free", raw(16, "[4294967296,4294967296]"), b"a" * 16, "elements than can be counted"),
    ("strings by the billion", "word", raw(4, "[1000000000,1]", '"BYTES"'), lengths(0), "data: expected 1000000000 elements"),
    # B10
    ("JSON that the header cuts off", "echo", infer()[:-1], b"}", "end of the body"),
    ("a tensor of another length alone", "echo", "", b"a" * 15, "expected 16 bytes.*got 15"),
    ("a tensor alone for two inputs", "two", "", b"a" * 15, "Inference-Header-Content-Length.*2 inputs"),
]

# What is wrong, the method, the path, keyword arguments of `request`, the status, the word, and what the text says.
HEADS = [
    # B15
    *[
        (f"Content-Encoding: {coding}", POST, "/predict/echo", {"headers": [f"Content-Encoding: {coding}"]}, 415, "unsupported_media_type", "Content-Encoding")
        for coding in ["zstd", "br", "compress", "x-unknown", "gzip, gzip", "identity, gzip", "gzip, chunked"]
    ],
    *[
        (f"Content-Encoding: {coding} of what is not compressed", POST, "/predict/echo", {"body": GOOD, "headers": [f"Content-Encoding: {coding}"]}, 400, "invalid_input", f"Content-Encoding, {coding}")
        for coding in ["gzip", "deflate"]
    ],
    *[
        (f"Content-Encoding: {coding}, cut off", POST, "/predict/echo", {"body": packed[:-1], "headers": [f"Content-Encoding: {coding}"]}, 400, "invalid_input", "cut off")
        for coding, packed in [("gzip", gzip.compress(GOOD.encode())), ("deflate", zlib.compress(GOOD.encode()))]
    ],
    ("two gzip streams", POST, "/predict/echo", {"body": gzip.compress(b"[1,2,") + gzip.compress(b"3,4]"), "headers": ["Content-Encoding: gzip"]}, 400, "invalid_input", "follow its end"),
    # B16
    *[
        (f"model name {shown}", method, path.format(name), {"body": GOOD if method == POST else b""}, 404, "unknown_model|not_found", "model|path")
        for shown, name in [
            ("..", ".."),
            ("%2e%2e%2f", "%2e%2e%2fecho"),
            ("of two parts", "a/b/c"),
            ("with a backslash", "..\\echo"),
            ("with %00", "echo%00"),
            ("of 300 characters", "a" * 300),
            ("for a shell", "$(id);'&&ls|"),
            ("turned around", "%E2%80%AEohce"),
            ("with a line end", "echo%0d%0aX:%20y"),
            ("empty", ""),
            ("in capitals", "ECHO"),
            ("/etc/passwd", "%2fetc%2fpasswd"),
        ]
        for method, path in [(POST, PREDICT), (POST, INFER), (GET, "/v2/models/{}"), (GET, "/v2/models/{}/ready")]
        if not (name == "" and path == "/v2/models/{}")
    ],
    *[
        (f"version {version}", POST, f"/v2/models/echo/versions/{version}/infer", {"body": infer()}, 404, "unknown_model|not_found", "version|path")
        for version in ["-1", "0", "2", "01", "1.0", "99999999999999999999", "..", "latest"]
    ],
    # B17
    ("an unknown route", GET, "/nowhere", {}, 404, "not_found", "path"),
    ("a slash too many", POST, "//predict/echo", {"body": GOOD}, 404, "not_found", "path"),
    ("a slash at the end", POST, "/predict/echo/", {"body": GOOD}, 404, "not_found", "slash at its end"),
    ("an escape that is none", POST, "/predict/ech%6", {"body": GOOD}, 404, "not_found", "escapes"),
    ("shared memory", POST, "/v2/systemsharedmemory/region/x/register", {"body": "{}"}, 404, "not_found", "path"),
    ("shared memory of a GPU", POST, "/v2/cudasharedmemory/region/x/register", {"body": "{}"}, 404, "not_found", "path"),
    # B01, B04, B16 and A06 for the repository
    ("the index, no JSON", POST, "/v2/repository/index", {"body": "{"}, 400, "invalid_input", "body"),
    ("the index, nested", POST, "/v2/repository/index", {"body": '{"x":' + "[" * 100_000}, 400, "invalid_input", "."),
    ("the index, a switch that is none", POST, "/v2/repository/index", {"body": '{"ready":1}'}, 400, "invalid_input", "boolean"),
    ("the index of another repository", POST, "/v2/repository/other/index", {"body": "{}"}, 404, "not_found", "repository"),
    ("GET of the index", GET, "/v2/repository/index", {}, 405, "method_not_allowed", "POST"),
    *[
        (f"{order} unasked for", POST, f"/v2/repository/models/{name}/{order}", {"body": "{}"}, 403, "forbidden", "--control explicit")
        for order in ("load", "unload")
        for name in ("echo", "none", "..", "%2e%2e", "$(id)")
    ],
    ("a load with a file", POST, "/v2/repository/models/echo/load", {"body": '{"parameters":{"config":"{}","file:1/model.onnx":"AAAA"}}'}, 403, "forbidden", "files"),
    ("a load, nested", POST, "/v2/repository/models/echo/load", {"body": '{"parameters":' + "[" * 100_000}, 400, "invalid_input", "."),
    ("an unload with what there is not", POST, "/v2/repository/models/echo/unload", {"body": '{"parameters":{"x":1}}'}, 400, "invalid_input", "x"),
    # The log and the trace
    ("the log's file", POST, "/v2/logging", {"body": '{"log_file":"/etc/cron.d/x"}'}, 403, "forbidden", "log_file"),
    ("a log level that is text", POST, "/v2/logging", {"body": '{"log_info":"yes"}'}, 400, "invalid_input", "log_info"),
    ("log settings that are a list", POST, "/v2/logging", {"body": "[]"}, 400, "invalid_input", "."),
    ("log settings, nested", POST, "/v2/logging", {"body": "[" * 100_000}, 400, "invalid_input", "."),
    ("the trace's file", POST, "/v2/trace/setting", {"body": '{"trace_file":"/etc/cron.d/x"}'}, 403, "forbidden", "trace_file"),
    ("trace settings, nested", POST, "/v2/trace/setting", {"body": '{"x":' + "[" * 100_000}, 400, "invalid_input", "."),
    ("the trace of no model", POST, "/v2/models/none/trace/setting", {"body": "{}"}, 404, "unknown_model", "none"),
    # Streams of results
    *[
        (f"{route}: {name}", POST, f"/v2/models/echo/{route}", {"body": body}, 400, "invalid_input", words)
        for route in ("generate", "generate_stream")
        for name, body, words in [
            ("no input", "{}", "input"),
            ("no body", "", "empty"),
            ("a list", "[]", "."),
            ("trailing bytes", '{"input":[1,2,3,4]} x', "nothing after"),
            ("a key twice", '{"input":[1,2,3,4],"input":[1,2,3,4]}', "input.*twice"),
            ("one value too few", '{"input":[1,2,3]}', "input"),
            ("not UTF-8", b'{"input":"\xff"}', "UTF-8"),
        ]
    ],
    *[
        (f"{path}: no such model", POST, path, {"body": '{"input":[1]}'}, 404, "unknown_model", "none")
        for path in ("/v2/models/none/generate", "/v2/models/none/generate_stream", "/predict/none/stream")
    ],
    *[
        (f"{path}: text", POST, path, {"body": GOOD, "content_type": "text/plain"}, 415, "unsupported_media_type", "JSON|json")
        for path in ("/v2/models/echo/generate", "/v2/models/echo/generate_stream", "/predict/echo/stream")
    ],
    ("a stream of one value too few", POST, "/predict/echo/stream", {"body": "[1]"}, 400, "invalid_input", "input|body"),
    # gRPC
    ("gRPC over HTTP/1.1", POST, "/inference.GRPCInferenceService/ModelInfer", {"body": b"\0\0\0\0\0", "content_type": "application/grpc"}, 415, "unsupported_media_type", "HTTP/2"),
    ("a method of gRPC as JSON", POST, "/inference.GRPCInferenceService/ModelInfer", {"body": "{}"}, 415, "unsupported_media_type", "gRPC"),
    # A09 and B23: before it is a WebSocket
    *[
        (f"a WebSocket: {name}", GET, "/v2/models/echo/stream", {"headers": [*fields, *more]}, status, code, words)
        for fields in [["Upgrade: websocket", "Connection: Upgrade"]]
        for name, more, status, code, words in [
            ("of another site", [*SOCKET, "Origin: http://evil.example"], 403, "forbidden", "another site"),
            ("of no site", [*SOCKET, "Origin: null"], 403, "forbidden", "another site"),
            ("of another version", [SOCKET[1], "Sec-WebSocket-Version: 8"], 426, ".*", "13"),
            ("without a key", SOCKET[:1], 400, "invalid_input", "Sec-WebSocket-Key"),
            ("with a key that is none", [SOCKET[0], "Sec-WebSocket-Key: x"], 400, "invalid_input", "Sec-WebSocket-Key"),
            ("with an endless head", [*SOCKET, *["X: y"] * 5000], 431, "headers_too_large", "head"),
        ]
    ],
    ("a WebSocket of no model", GET, "/v2/models/none/stream", {"headers": ["Upgrade: websocket", "Connection: Upgrade", *SOCKET]}, 404, "unknown_model", "none"),
    ("a WebSocket", GET, "/predict/echo", {"headers": ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]}, 405, "method_not_allowed", "POST"),
    *[
        (f"{method} {path}", method, path, {}, 405, "method_not_allowed", "allow")
        for method, path in [
            ("GET", "/predict/echo"),
            ("PUT", "/predict/echo"),
            ("DELETE", "/v2/models/echo"),
            ("PATCH", "/v2/models/echo/infer"),
            ("OPTIONS", "/predict/echo"),
            ("TRACE", "/"),
            ("TRACE", "/predict/echo"),
            ("CONNECT", "localhost:80"),
            ("BREW", "/metrics"),
            ("get", "/metrics"),
        ]
    ],
    ("POST to a page", POST, "/metrics", {"body": "{}"}, 405, "method_not_allowed", "GET"),
    # B18
    ("no Content-Type", POST, "/predict/echo", {"body": GOOD, "content_type": None}, 415, "unsupported_media_type", "Content-Type"),
    *[
        (f"Content-Type: {kind}", POST, "/predict/echo", {"body": GOOD, "content_type": kind}, 415, "unsupported_media_type", "JSON|json")
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/octet-stream", "application/grpc", "application/json; charset=utf-16", "json", "", "application/x-ndjson"]
    ],
    ("Content-Type twice", POST, "/predict/echo", {"body": GOOD, "headers": ["Content-Type: application/json"]}, 415, "unsupported_media_type", "twice"),
    # B10 and the request's own numbers
    *[
        (f"Inference-Header-Content-Length: {value}", POST, "/v2/models/echo/infer", {"body": infer(), "headers": [f"Inference-Header-Content-Length: {value}"]}, 400, "invalid_input", "Inference-Header-Content-Length")
        for value in ["-1", "+5", "99999999999", "x", "", "1 1", "9" * 30]
    ],
    ("Inference-Header-Content-Length twice", POST, "/v2/models/echo/infer", {"body": infer(), "headers": ["Inference-Header-Content-Length: 5"] * 2}, 400, "invalid_input", "Inference-Header-Content-Length"),
    ("raw bytes for a prediction", POST, "/predict/echo", {"body": GOOD, "headers": ["Inference-Header-Content-Length: 0"]}, 400, "invalid_input", "Inference-Header-Content-Length"),
    *[
        (f"a page that sends {shown}", POST, "/v2/models/echo/infer", {"body": infer(), "content_type": kind, "headers": fields}, status, code, "Content-Type|site")
        for shown, kind, fields, status, code in [
            ("text", "text/plain", [], 415, "unsupported_media_type"),
            ("a form", "application/x-www-form-urlencoded", [], 415, "unsupported_media_type"),
            ("bytes", None, ["Origin: http://evil.example"], 403, "forbidden"),
            ("bytes to a server of its own name", None, ["Sec-Fetch-Site: cross-site"], 415, "unsupported_media_type"),
        ]
    ],
    ("no Content-Type and no JSON", POST, "/v2/models/echo/infer", {"body": GOOD, "content_type": None}, 415, "unsupported_media_type", "Content-Type"),
    *[
        (f"X-Request-Timeout-Ms: {value}", POST, "/predict/echo", {"body": GOOD, "headers": [f"X-Request-Timeout-Ms: {value}"]}, 400, "invalid_input", "X-Request-Timeout-Ms")
        for value in ["0", "-1", "+5", "1.5", "soon", "", "99999999999999999999"]
    ],
    ("X-Request-Timeout-Ms twice", POST, "/predict/echo", {"body": GOOD, "headers": ["X-Request-Timeout-Ms: 5", "X-Request-Timeout-Ms: 5"]}, 400, "invalid_input", "X-Request-Timeout-Ms"),
    # Sites
    ("Host of another site", POST, "/predict/echo", {"body": GOOD, "host": "evil.example"}, 421, "misdirected_request", "Host"),
    ("Host with another port", GET, "/v2", {"host": "localhost:1"}, 421, "misdirected_request", "Host"),
    ("an empty Host", GET, "/v2", {"host": ""}, 421, "misdirected_request", "Host"),
    ("a target at another site", GET, "http://evil.example/v2", {}, 421, "misdirected_request", "Host"),
    ("a page of another site", POST, "/predict/echo", {"body": GOOD, "headers": ["Origin: http://evil.example"]}, 403, "forbidden", "another site"),
    ("a page of no site", POST, "/predict/echo", {"body": GOOD, "headers": ["Origin: null"]}, 403, "forbidden", "another site"),
    # Limits of the head
    ("a header of 1 MiB", GET, "/v2", {"headers": ["X-Long: " + "a" * MIB]}, 431, "headers_too_large", "head"),
    ("5,000 headers", GET, "/v2", {"headers": ["X: y"] * 5000}, 431, "headers_too_large", "head"),
    ("101 headers", GET, "/v2", {"headers": ["X: y"] * 100}, 431, "headers_too_large", "100"),
    ("a target of 40 kB", GET, "/" + "a" * 40000, {}, 431, "headers_too_large", "head"),
    ("a header line without an end", GET, "/v2", {"headers": ["X" * 70000]}, 431, "headers_too_large", "head"),
]

HOST = b"Host: localhost\r\n"
PREDICTION = b"POST /predict/echo HTTP/1.1\r\nContent-Type: application/json\r\n"
# Requests that two parsers could read in two ways. Each is followed by a second one, which must never run.
SMUGGLED = [
    ("Content-Length and chunked", PREDICTION + HOST + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"[1,2,3,4]")),
    ("chunked and Content-Length", PREDICTION + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n[1,2,3,4]"),
    ("two Content-Lengths", PREDICTION + HOST + b"Content-Length: 9\r\nContent-Length: 8\r\n\r\n[1,2,3,4]"),
    ("the same Content-Length twice", PREDICTION + HOST + b"Content-Length: 9\r\nContent-Length: 9\r\n\r\n[1,2,3,4]"),
    ("a list of Content-Lengths", PREDICTION + HOST + b"Content-Length: 9, 9\r\n\r\n[1,2,3,4]"),
    ("Content-Length: +9", PREDICTION + HOST + b"Content-Length: +9\r\n\r\n[1,2,3,4]"),
    ("Content-Length: -1", PREDICTION + HOST + b"Content-Length: -1\r\n\r\n[1,2,3,4]"),
    ("Content-Length: 0x9", PREDICTION + HOST + b"Content-Length: 0x9\r\n\r\n[1,2,3,4]"),
    ("Content-Length: 9.0", PREDICTION + HOST + b"Content-Length: 9.0\r\n\r\n[1,2,3,4]"),
    ("an empty Content-Length", PREDICTION + HOST + b"Content-Length:\r\n\r\n[1,2,3,4]"),
    ("a Content-Length beyond 64 bits", PREDICTION + HOST + b"Content-Length: 18446744073709551625\r\n\r\n[1,2,3,4]"),
    ("Transfer-Encoding twice", PREDICTION + HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"[1,2,3,4]")),
    ("Transfer-Encoding: identity", PREDICTION + HOST + b"Transfer-Encoding: identity\r\n\r\n[1,2,3,4]"),
    ("Transfer-Encoding: gzip, chunked", PREDICTION + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunked(b"[1,2,3,4]")),
    ("Transfer-Encoding: chunked, identity", PREDICTION + HOST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + chunked(b"[1,2,3,4]")),
    ("Transfer-Encoding: xchunked", PREDICTION + HOST + b"Transfer-Encoding: xchunked\r\n\r\n" + chunked(b"[1,2,3,4]")),
    ("an empty Transfer-Encoding", PREDICTION + HOST + b"Transfer-Encoding:\r\n\r\n" + chunked(b"[1,2,3,4]")),
    ("Transfer-Encoding in HTTP/1.0", PREDICTION.replace(b"1.1", b"1.0") + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"[1,2,3,4]")),
    ("a space before the colon", PREDICTION + HOST + b"Content-Length : 9\r\n\r\n[1,2,3,4]"),
    ("a tab before the colon", PREDICTION + HOST + b"Transfer-Encoding\t: chunked\r\n\r\n" + chunked(b"[1,2,3,4]")),
    ("a space before the name", PREDICTION + b" " + HOST + b"Content-Length: 9\r\n\r\n[1,2,3,4]"),
    ("a folded line", PREDICTION + HOST + b"X: a\r\n b\r\nContent-Length: 9\r\n\r\n[1,2,3,4]"),
    ("a line folded by a tab", PREDICTION + HOST + b"X: a\r\n\tContent-Length: 9\r\n\r\n[1,2,3,4]"),
    ("a bare line feed", PREDICTION + HOST + b"X: a\nContent-Length: 9\r\n\r\n[1,2,3,4]"),
    ("only line feeds", PREDICTION.replace(b"\r", b"") + b"Host: localhost\nContent-Length: 9\n\n[1,2,3,4]"),
    ("a bare carriage return", PREDICTION + HOST + b"X: a\rContent-Length: 9\r\n\r\n[1,2,3,4]"),
    ("a bare carriage return in the name", PREDICTION + HOST + b"X\r: a\r\n\r\n"),
    ("NUL in a value", PREDICTION + HOST + b"X: a\0b\r\n\r\n"),
    ("NUL in a name", PREDICTION + HOST + b"X\0: a\r\n\r\n"),
    ("ESC in a value", PREDICTION + HOST + b"X: \x1b[31m\r\n\r\n"),
    ("two Hosts", PREDICTION + HOST + HOST + b"Content-Length: 9\r\n\r\n[1,2,3,4]"),
    ("no Host", PREDICTION + b"Content-Length: 9\r\n\r\n[1,2,3,4]"),
    ("a header without a colon", PREDICTION + HOST + b"nonsense\r\n\r\n"),
    ("a header without a name", PREDICTION + HOST + b": x\r\n\r\n"),
    ("two spaces in the request line", PREDICTION.replace(b" HTTP", b"  HTTP") + HOST + b"\r\n"),
    ("a tab in the request line", PREDICTION.replace(b" HTTP", b"\tHTTP") + HOST + b"\r\n"),
    ("a space before the method", b" " + PREDICTION + HOST + b"\r\n"),
    ("an empty line before the request", b"\r\n" + PREDICTION + HOST + b"\r\n"),
    ("no version", b"POST /predict/echo\r\n" + HOST + b"\r\n"),
    ("HTTP/0.9", b"GET /v2\r\n\r\n"),
    ("HTTP/1.2", PREDICTION.replace(b"1.1", b"1.2") + HOST + b"\r\n"),
    ("HTTP/2.0 in a line", PREDICTION.replace(b"1.1", b"2.0") + HOST + b"\r\n"),
    ("http/1.1 in small letters", PREDICTION.replace(b"HTTP", b"http") + HOST + b"\r\n"),
    ("raw bytes in the target", b"GET /v2/\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("a control character in the target", b"GET /v2/\x1b[31m HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("< and > in the target", b"GET /v2/<b> HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("a backtick in the target", b"GET /v2/`id` HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("a fragment in the target", b"GET /v2/health/live#x HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("a target without a host", b"GET http:///v2 HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("a target that is no path", b"GET v2/health/live HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("a chunk size with a sign", PREDICTION + HOST + b"Transfer-Encoding: chunked\r\n\r\n+9\r\n[1,2,3,4]\r\n0\r\n\r\n"),
    ("a chunk size of 0x9", PREDICTION + HOST + b"Transfer-Encoding: chunked\r\n\r\n0x9\r\n[1,2,3,4]\r\n0\r\n\r\n"),
    ("a chunk size beyond 64 bits", PREDICTION + HOST + b"Transfer-Encoding: chunked\r\n\r\n10000000000000009\r\n[1,2,3,4]\r\n0\r\n\r\n"),
    ("a chunk size of spaces", PREDICTION + HOST + b"Transfer-Encoding: chunked\r\n\r\n 9\r\n[1,2,3,4]\r\n0\r\n\r\n"),
    ("a chunk longer than its size", PREDICTION + HOST + b"Transfer-Encoding: chunked\r\n\r\n8\r\n[1,2,3,4]\r\n0\r\n\r\n"),
    ("a chunk behind a bare line feed", PREDICTION + HOST + b"Transfer-Encoding: chunked\r\n\r\n9\n[1,2,3,4]\n0\n\n"),
    ("a bad chunk extension", PREDICTION + HOST + b"Transfer-Encoding: chunked\r\n\r\n9;a\0b\r\n[1,2,3,4]\r\n0\r\n\r\n"),
    ("a chunk extension without an end", PREDICTION + HOST + b"Transfer-Encoding: chunked\r\n\r\n9;" + b"a" * 20000 + b"\r\n[1,2,3,4]\r\n0\r\n\r\n"),
    ("a bad trailer", PREDICTION + HOST + b"Transfer-Encoding: chunked\r\n\r\n9\r\n[1,2,3,4]\r\n0\r\nX\n\r\n\r\n"),
]
# fmt: on
SECOND = request("POST", "/predict/canary", "[1]")
