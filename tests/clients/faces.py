"""The four clients of Triton's Python package behind one set of words, so that a check is written once for all of them."""

import asyncio
import contextlib
import threading
from types import SimpleNamespace

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

PATIENCE_S = 30


class Face:
    """One client. `call` is any of its methods, by its name; answers are dictionaries whatever the wire form."""

    kind = ""
    # Whether numbers may be sent and asked for as JSON.
    json = False

    def infer(self, model, arrays, outputs=None, binary=True, **more):
        """The client's result for inputs by name, each in binary form or in that which `binary` says of it."""
        inputs = [self.input(name, array, binary_of(binary, name)) for name, array in arrays.items()]
        asked = None if outputs is None else [self.output(name, **how) for name, how in outputs.items()]
        return self.call("infer", model, inputs, outputs=asked, **more)

    def input(self, name, array, binary=True):
        given = self.library.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        if self.json:
            given.set_data_from_numpy(array, binary_data=binary)
        else:
            given.set_data_from_numpy(array)
        return given

    def output(self, name, **how):
        return self.library.InferRequestedOutput(name, **how)

    def document(self, method, *args, **more):
        """What a method that describes something says, as a dictionary in which numbers are numbers."""
        if not self.json:
            more["as_json"] = True
        return numbers(self.call(method, *args, **more))

    def response(self, result):
        return result.get_response() if self.json else result.get_response(as_json=True)


def binary_of(binary, name):
    return binary[name] if isinstance(binary, dict) else binary


def numbers(value):
    """Protobuf's JSON writes numbers of 64 bits as texts, which Triton's REST form does not."""
    if isinstance(value, dict):
        return {key: numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [numbers(inner) for inner in value]
    if isinstance(value, str) and value.lstrip("-").isdigit():
        return int(value)
    return value


class Http(Face):
    kind, library, json = "http", triton_http, True

    def __init__(self, world):
        self.client = triton_http.InferenceServerClient(world.http_url, concurrency=16)

    def call(self, method, *args, **more):
        return getattr(self.client, method)(*args, **more)

    def close(self):
        self.client.close()


class Grpc(Face):
    kind, library = "grpc", triton_grpc

    def __init__(self, world):
        self.client = triton_grpc.InferenceServerClient(world.grpc_url)

    def call(self, method, *args, **more):
        return getattr(self.client, method)(*args, **more)

    def close(self):
        self.client.close()


class Asynchronous(Face):
    """A client of `asyncio`, on the loop of a thread of its own."""

    def __init__(self, world):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.client = self.wait(self.made(world))

    def call(self, method, *args, **more):
        return self.wait(getattr(self.client, method)(*args, **more))

    def wait(self, awaitable):
        return asyncio.run_coroutine_threadsafe(awaitable, self.loop).result(PATIENCE_S)

    def close(self):
        self.wait(self.client.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE_S)
        self.loop.close()


class HttpAio(Asynchronous):
    kind, library, json = "http", triton_http, True

    async def made(self, world):
        return triton_http_aio.InferenceServerClient(world.http_url)


class GrpcAio(Asynchronous):
    kind, library = "grpc", triton_grpc

    async def made(self, world):
        return triton_grpc_aio.InferenceServerClient(world.grpc_url)


FACES = {"http": Http, "http aio": HttpAio, "grpc": Grpc, "grpc aio": GrpcAio}

# A failure's status over HTTP and over gRPC.
INVALID = ("400", "INVALID_ARGUMENT")
UNKNOWN = ("404", "NOT_FOUND")
LATE = ("504", "DEADLINE_EXCEEDED")
OVERLOADED = ("429", "RESOURCE_EXHAUSTED")
MODEL_ERROR = ("500", "INTERNAL")
REFUSED = ("403", "PERMISSION_DENIED")


def expect(status, words, run, kind):
    """The client must raise its own exception, with this status and these words in its message."""
    wanted = status[0] if kind == "http" else f"StatusCode.{status[1]}"
    try:
        result = run()
    except InferenceServerException as error:
        assert error.status() == wanted, f"expected {wanted}, got {error.status()}: {error.message()}"
        for word in [words] if isinstance(words, str) else words:
            assert word.lower() in error.message().lower(), f"expected {word!r} in {error.message()!r}"
        return error
    raise AssertionError(f"expected {wanted}, got an answer: {getattr(result, 'get_response', lambda: result)()}")


def row(*values, dtype=np.float32):
    return np.array([values], dtype=dtype)


@contextlib.contextmanager
def open_faces(world):
    """All four, as attributes and as a table by name."""
    faces = {}
    try:
        for name, make in FACES.items():
            faces[name] = make(world)
        yield SimpleNamespace(all=faces)
    finally:
        for face in faces.values():
            face.close()
