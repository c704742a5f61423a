"""As much of HTTP/1.1 and HTTP/2 as a hostile client needs: raw bytes out, answers in. Every wait has an end."""

import contextlib
import json
import re
import socket
import struct
import time
from dataclasses import dataclass, field

PATIENCE_S = 5.0

# Nothing of this may be in the body of a refusal: it is about the server's inside.
INSIDE = re.compile(
    r"\.rs:|panicked|backtrace|traceback|\bhyper\b|\btokio\b|\brten\b|\bpid\b|/(?:home|root|tmp|usr)/", re.I
)


@dataclass
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    took_s: float = 0.0

    def json(self):
        return json.loads(self.body)

    @property
    def code(self):
        """The stable word of a refusal, whose body is checked on the way."""
        if self.status < 400:
            return None
        assert self.headers.get("content-type") == "application/json", f"{self.status} is not JSON: {self.body[:200]}"
        body = self.json()
        assert set(body) == {"error", "code"}, body
        assert isinstance(body["error"], str) and body["error"], body
        found = INSIDE.search(body["error"])
        assert found is None, f"the refusal speaks of the inside, {found}: {body}"
        if self.status in (429, 503):
            assert int(self.headers["retry-after"]) >= 1, self.headers
        return body["code"]

    @property
    def error(self):
        return self.json()["error"]


def connect(port, timeout=PATIENCE_S):
    sock = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def request(
    method,
    path,
    body: bytes | str = b"",
    headers=(),
    content_type="application/json",
    host="localhost",
    version="HTTP/1.1",
):
    """The bytes of a request. `headers` are whole lines without their ends."""
    body = body.encode() if isinstance(body, str) else body
    head = [f"{method} {path} {version}".encode("latin-1")]
    lines = [*([f"Host: {host}"] if host is not None else []), *headers]
    if content_type and method == "POST":
        lines.append(f"Content-Type: {content_type}")
    if body and not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in lines):
        lines.append(f"Content-Length: {len(body)}")
    head += [line.encode("latin-1") for line in lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def chunked(*chunks):
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


class Client:
    """One HTTP/1.1 connection."""

    def __init__(self, port, timeout=PATIENCE_S):
        self.sock = connect(port, timeout)
        self.buffer = b""
        self.sent_at = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def send(self, data):
        self.sent_at = time.monotonic()
        # A server that has refused may close before everything is sent; its answer is still to be read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)
        return self

    def ask(self, *args, **kwargs):
        method = args[0]
        self.send(request(*args, **kwargs))
        answer = self.answer(head_only=method == "HEAD")
        assert answer is not None, f"the server closed without an answer to {args[:2]}"
        return answer

    def answer(self, head_only=False):
        """The next answer; `None` when the server has closed the connection instead."""
        while b"\r\n\r\n" not in self.buffer:
            if not self._fill():
                assert not self.buffer, f"half an answer: {self.buffer[:200]}"
                return None
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:])
        fields = {name.lower(): value for name, value in pairs}
        status = int(lines[0].split(" ")[1])
        length = 0 if head_only or status < 200 else int(fields.get("content-length", 0))
        while len(self.buffer) < length:
            assert self._fill(), f"the answer is cut off: {lines}"
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return Answer(status, fields, body, time.monotonic() - self.sent_at)

    def closed(self, within=PATIENCE_S):
        """Whether the server closes the connection, and sends nothing more before."""
        self.sock.settimeout(within)
        try:
            return not self.buffer and not self._fill()
        except TimeoutError:
            return False

    def _fill(self):
        try:
            data = self.sock.recv(1 << 16)
        except ConnectionResetError:
            return False
        self.buffer += data
        return bool(data)


def ask(port, *args, **kwargs):
    """One request on a connection of its own."""
    with Client(port) as client:
        return client.ask(*args, **kwargs)


DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Reset(Exception):
    """The server reset the stream."""


class Gone(Exception):
    """The server ended the connection."""


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def setting(number, value):
    return struct.pack(">HI", number, value)


def hpack(fields):
    """Literal fields without an index: the plainest form there is."""

    def text(value):
        value = value.encode("latin-1") if isinstance(value, str) else value
        size = len(value)
        if size < 127:
            return bytes([size]) + value
        rest, more = size - 127, b""
        while rest >= 128:
            more, rest = more + bytes([rest % 128 + 128]), rest // 128
        return b"\x7f" + more + bytes([rest]) + value

    return b"".join(b"\x00" + text(name) + text(value) for name, value in fields)


def fields_of(method, path, *more, authority="localhost"):
    pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", authority)]
    return [*pseudo, *more]


class Http2:
    """One HTTP/2 connection. It lets the server keep no table of headers, so that statuses can be read without one."""

    def __init__(self, port, settings=b"", timeout=PATIENCE_S):
        self.sock = connect(port, timeout)
        self.buffer = b""
        self.next_stream = 1
        self.went_away = None
        self.send(PREFACE + frame(SETTINGS, 0, 0, setting(1, 0) + settings))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Gone(str(error)) from None

    def begin(self, fields, body=None):
        """Sends a request; the id of its stream."""
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        block = hpack(fields)
        end = END_STREAM if body is None else 0
        pieces = [block[at : at + 16384] for at in range(0, len(block), 16384)]
        data = b""
        for index, piece in enumerate(pieces):
            last = END_HEADERS if index == len(pieces) - 1 else 0
            kind, flags = (HEADERS, end | last) if index == 0 else (CONTINUATION, last)
            data += frame(kind, flags, stream, piece)
        if body is not None:
            data += frame(DATA, END_STREAM, stream, body)
        self.send(data)
        return stream

    def read(self):
        """The next frame: kind, flags, stream and payload."""
        while len(self.buffer) < 9 or len(self.buffer) < 9 + int.from_bytes(self.buffer[:3]):
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                raise Gone(f"closed, after GOAWAY {self.went_away}")
            self.buffer += data
        size = int.from_bytes(self.buffer[:3])
        kind, flags = self.buffer[3], self.buffer[4]
        stream = int.from_bytes(self.buffer[5:9]) & 0x7FFFFFFF
        payload, self.buffer = self.buffer[9 : 9 + size], self.buffer[9 + size :]
        if kind == GOAWAY:
            self.went_away = int.from_bytes(payload[4:8])
        elif kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
        elif kind == SETTINGS and not flags & ACK:
            self.send(frame(SETTINGS, ACK, 0))
        return kind, flags, stream, payload

    def answer(self, stream):
        """Waits for the answer of a stream, and passes over the others'."""
        started, status, body, content_type = time.monotonic(), None, b"", ""
        while True:
            kind, flags, of, payload = self.read()
            if of != stream:
                continue
            if kind == RST_STREAM:
                if status is not None and status >= 400:
                    break
                raise Reset(int.from_bytes(payload))
            if kind == HEADERS and status is None:
                status = status_of(payload)
                content_type = "application/json"
            if kind == DATA:
                body += payload
            if flags & END_STREAM:
                break
        assert status is not None
        headers = {"content-type": content_type, "retry-after": "1"}
        return Answer(status, headers, body, time.monotonic() - started)

    def ask(self, fields, body=None):
        return self.answer(self.begin(fields, body))

    def until_gone(self, within=PATIENCE_S):
        """Reads until the server ends the connection; the code of its GOAWAY, `None` when it sent none, or `False` when it stays."""
        end = time.monotonic() + within
        try:
            while time.monotonic() < end:
                self.sock.settimeout(max(0.01, end - time.monotonic()))
                self.read()
        except Gone:
            return self.went_away
        except TimeoutError:
            pass
        return False


STATIC_STATUSES = {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}
# The Huffman codes of the digits, as strings of bits.
DIGITS = {format(code, "05b"): code for code in range(3)} | {format(0x19 + at, "06b"): 3 + at for at in range(7)}


def status_of(block):
    """The status at the start of a block of headers, before which only the size of the table may be changed."""
    while block[0] & 0xE0 == 0x20:
        block = block[1:]
    first = block[0]
    if first & 0x80:
        return STATIC_STATUSES[first & 0x7F]
    length = block[1]
    value = block[2 : 2 + (length & 0x7F)]
    if not length & 0x80:
        return int(value)
    bits, digits, code = "".join(format(byte, "08b") for byte in value), "", ""
    for bit in bits:
        code += bit
        if code in DIGITS:
            digits, code = digits + str(DIGITS[code]), ""
    return int(digits)
