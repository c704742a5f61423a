"""The rules of WebSockets (RFC 6455) on `/v2/models/NAME/stream`: what a client may not send ends the connection with the code for it,
within a second, and what it may send is borne. Then the same by two public clients."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import socket
import struct
import time

import aiohttp
import websockets
from suite import Suite, same
from world import wait_for

SUITE = Suite("WebSocket")
PATH = "/v2/models/{}/stream"
KEY = base64.b64encode(b"sixteen bytes !!").decode()
ACCEPT = "sec-websocket-accept"
SOON_S = 1.0
CONTINUE, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN = 0x80
ONE = json.dumps({"id": "a", "item": [1, 2]}).encode()


def frame(opcode, payload=b"", fin=True, rsv=0, masked=True, length=None):
    """A frame as a client sends it; `length` is announced where it is not the payload's."""
    size = len(payload) if length is None else length
    head = bytes([FIN * fin | rsv << 4 | opcode])
    bit = 0x80 * masked
    if size < 126:
        head += bytes([bit | size])
    elif size < 1 << 16:
        head += bytes([bit | 126]) + struct.pack(">H", size)
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", size)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


class Socket:
    """One WebSocket, bytes in and frames out."""

    def __init__(self, world, model="fp32", headers=(), path=None, method="GET", version="HTTP/1.1", handshake=None):
        self.sock = socket.create_connection(("127.0.0.1", world.port), timeout=10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        given = HANDSHAKE if handshake is None else handshake
        lines = [
            f"{method} {path or PATH.format(model)} {version}",
            *(f"{name}: {value}" for name, value in given.items()),
            *headers,
        ]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.status, self.headers = self.head()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)

    def head(self):
        while b"\r\n\r\n" not in self.buffer:
            self.fill()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        first, *lines = head.decode().split("\r\n")
        return int(first.split()[1]), {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    def fill(self):
        data = self.sock.recv(1 << 16)
        if not data:
            raise ConnectionError("closed")
        self.buffer += data

    def frame(self):
        """The next frame: its first byte and its payload."""
        while True:
            if len(self.buffer) >= 2:
                assert not self.buffer[1] & 0x80, "a server does not mask"
                size, at = self.buffer[1] & 0x7F, 2
                wide = {126: 2, 127: 8}.get(size, 0)
                if len(self.buffer) >= at + wide:
                    size = int.from_bytes(self.buffer[at : at + wide]) if wide else size
                    at += wide
                    if len(self.buffer) >= at + size:
                        first, payload = self.buffer[0], self.buffer[at : at + size]
                        self.buffer = self.buffer[at + size :]
                        return first, payload
            self.fill()

    def message(self):
        """The next message, which must be JSON; pings are answered on the way."""
        while True:
            first, payload = self.frame()
            if first & 0x0F == PING:
                self.send(frame(PONG, payload))
                continue
            same(first, FIN | TEXT, str(payload))
            return json.loads(payload)

    def closing(self):
        """The code with which the server closes, and whether it then ends the connection. Messages before that are passed over."""
        while True:
            first, payload = self.frame()
            if first & 0x0F == CLOSE:
                break
        code = int.from_bytes(payload[:2]) if payload else None
        payload[2:].decode()
        self.send(frame(CLOSE, payload[:2]))
        try:
            while True:
                self.fill()
        except (ConnectionError, ConnectionResetError):
            return code


HANDSHAKE = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}
BAD_UTF8 = [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"ok \xce\xba\xe1\xbd\xb9\xcf\x83\xed"]
MIB = 1 << 20

# What is sent, and the code of the close frame that must answer.
BROKEN = {
    "a frame that is not masked": (frame(TEXT, ONE, masked=False), 1002),
    "a ping that is not masked": (frame(PING, b"", masked=False), 1002),
    **{f"reserved bit {bit}": (frame(TEXT, ONE, rsv=1 << bit), 1002) for bit in range(3)},
    "a reserved bit of a ping": (frame(PING, b"x", rsv=4), 1002),
    **{f"opcode {opcode}": (frame(opcode, b"x"), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "a ping in fragments": (frame(PING, b"x", fin=False), 1002),
    "a close in fragments": (frame(CLOSE, b"", fin=False), 1002),
    "a ping of 126 bytes": (frame(PING, b"x" * 126), 1002),
    "a close of 126 bytes": (frame(CLOSE, struct.pack(">H", 1000) + b"x" * 124), 1002),
    "a continuation of nothing": (frame(CONTINUE, b"x"), 1002),
    "a message within another": (frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), 1002),
    "a continuation behind the end": (
        frame(TEXT, b"{", fin=False) + frame(CONTINUE, b"}") + frame(CONTINUE, b"x"),
        1002,
    ),
    "a length in more bytes than it needs": (b"\x81\xfe\x00\x05\0\0\0\0hello", 1002),
    "a length in many more bytes than it needs": (b"\x81\xff\0\0\0\0\0\0\0\x05\0\0\0\0hello", 1002),
    "a length with the highest bit": (b"\x81\xff\x80\0\0\0\0\0\0\0\0\0\0\0", 1002),
    "half a close code": (frame(CLOSE, b"\x03"), 1002),
    **{
        f"close code {code}": (frame(CLOSE, struct.pack(">H", code)), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
    "a reason that is not UTF-8": (frame(CLOSE, struct.pack(">H", 1000) + b"\xff"), 1007),
    **{f"text {text!r}": (frame(TEXT, text), 1007) for text in BAD_UTF8},
    "text that is wrong before its end": (frame(TEXT, b"\xce\xba\xff", fin=False), 1007),
    "text that is wrong across fragments": (frame(TEXT, b"\xce", fin=False) + frame(CONTINUE, b"x"), 1007),
    "text that ends within a character": (frame(TEXT, b"\xe4\xb8", fin=False) + frame(CONTINUE, b""), 1007),
    "65 MiB": (frame(TEXT, b"", length=65 * MIB), 1009),
    "a message of all bytes there are": (frame(TEXT, b"", length=(1 << 63) - 1), 1009),
    "fragments that add up": (
        b"".join(frame(TEXT if at == 0 else CONTINUE, b" " * MIB, fin=False) for at in range(4))
        + frame(CONTINUE, b"", fin=False, length=64 * MIB),
        1009,
    ),
}


@SUITE.over(BROKEN)
def what_may_not_be_sent(world, case):
    data, code = case
    with Socket(world) as client:
        same(client.status, 101)
        started = time.monotonic()
        client.send(data)
        same(client.closing(), code)
        assert time.monotonic() - started < SOON_S, "the connection was ended late"


@SUITE.check
def pings_are_answered(world):
    with Socket(world) as client:
        for payload in (b"", b"x", bytes(range(125))):
            client.send(frame(PING, payload))
            same(client.frame(), (FIN | PONG, payload))
        client.send(frame(PONG, b"unasked for"))
        client.send(frame(TEXT, ONE))
        same(client.message()["id"], "a")


@SUITE.check
def fragments_and_pings_between_them(world):
    with Socket(world) as client:
        client.send(
            frame(TEXT, ONE[:3], fin=False)
            + frame(PING, b"p")
            + frame(CONTINUE, b"", fin=False)
            + frame(CONTINUE, ONE[3:])
        )
        same(client.frame(), (FIN | PONG, b"p"))
        same(client.message()["final"], True)


@SUITE.check
def one_byte_at_a_time(world):
    with Socket(world) as client:
        text = json.dumps({"id": "\u00e4\u4e16\U0001f600", "item": [1]}, ensure_ascii=False).encode()
        for at in range(0, len(data := frame(TEXT, text))):
            client.send(data[at : at + 1])
        same(client.message()["id"], "\u00e4\u4e16\U0001f600")


@SUITE.over({str(code): code for code in (None, 1000, 1001, 1003, 1007, 1011, 3000, 4999)})
def closing(world, code):
    """A close is answered with one, and the connection ends."""
    with Socket(world) as client:
        payload = b"" if code is None else struct.pack(">H", code) + b"bye \xc3\xa4"
        client.send(frame(CLOSE, payload))
        assert client.closing() in (code, 1000), "another code came back"


@SUITE.check
def a_flood_of_pings(world):
    """Pongs that nobody reads are not kept: the server slows the client down or ends the connection, and others are served."""
    before = world.rss_mib()
    with Socket(world) as client, Socket(world) as other:
        client.sock.settimeout(2)
        flood = frame(PING, b"x" * 125) * 1000
        try:
            for _ in range(200):
                client.sock.sendall(flood)
        except (TimeoutError, ConnectionError, OSError):
            pass
        started = time.monotonic()
        other.send(frame(TEXT, ONE))
        same(other.message()["final"], True)
        assert time.monotonic() - started < SOON_S
    assert world.rss_mib() - before < 64, f"resident memory grew by {world.rss_mib() - before:.0f} MiB"


HANDSHAKES = {
    "another version": ({**HANDSHAKE, "Sec-WebSocket-Version": "8"}, (426,)),
    "no version": ({key: value for key, value in HANDSHAKE.items() if "Version" not in key}, (400, 426)),
    "no key": ({key: value for key, value in HANDSHAKE.items() if "Key" not in key}, (400,)),
    "a key that is none": ({**HANDSHAKE, "Sec-WebSocket-Key": "short"}, (400,)),
    "no upgrade": (
        {key: value for key, value in HANDSHAKE.items() if key not in ("Upgrade", "Connection")},
        (400, 426),
    ),
    "another upgrade": ({**HANDSHAKE, "Upgrade": "h2c"}, (400, 426)),
    "an origin from elsewhere": ({**HANDSHAKE, "Origin": "http://evil.example"}, (403,)),
    "a host that is not this one": ({**HANDSHAKE, "Host": "evil.example"}, (421,)),
    "an endless header": ({**HANDSHAKE, "X": "y" * 100_000}, (431,)),
}


@SUITE.over(HANDSHAKES)
def handshakes_that_are_refused(world, case):
    headers, wanted = case
    with Socket(world, handshake=headers) as client:
        assert client.status in wanted, f"expected one of {wanted}, got {client.status}"
        if client.status == 426:
            same(client.headers.get("sec-websocket-version"), "13")


@SUITE.check
def handshakes(world):
    with Socket(world, "nobody") as client:
        same(client.status, 404)
    with Socket(world, method="POST") as client:
        assert client.status in (400, 405, 426), client.status
    extras = {"Sec-WebSocket-Extensions": "permessage-deflate", "Sec-WebSocket-Protocol": "chat"}
    with Socket(world, handshake={**HANDSHAKE, **extras}) as client:
        same(client.status, 101)
        # The example of the specification's section 1.3, with another key.
        same(client.headers[ACCEPT], accept_of(KEY))
        assert "sec-websocket-extensions" not in client.headers, client.headers
        assert "sec-websocket-protocol" not in client.headers, client.headers
    with Socket(world, handshake={**HANDSHAKE, "Connection": "keep-alive, upgrade", "Upgrade": "WebSocket"}) as client:
        same(client.status, 101)


def accept_of(key):
    return base64.b64encode(hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()


# Messages.


def ask(client, **message):
    client.send(frame(TEXT, json.dumps(message).encode()))


def counting(upto, fail_at=-1, pause_ms=0):
    return {"upto": [upto], "fail_at": [fail_at], "pause_ms": [pause_ms]}


def until_final(client, request_id):
    """The answers to one request; no other is on its way."""
    answers = []
    while not answers or not answers[-1].get("final"):
        answers.append(client.message())
        same(answers[-1].get("id"), request_id)
    return answers


@SUITE.check
def both_forms_of_a_request(world):
    with Socket(world) as client:
        ask(client, id="a", item=[1, 2])
        same(client.message(), {"prediction": {"output": [1, 2]}, "id": "a", "final": True})
        ask(client, id="b", inputs=[{"name": "input", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}])
        answer = client.message()
        same((answer["id"], answer["final"], answer["outputs"][0]["data"]), ("b", True, [1, 2]))


@SUITE.check
def many_results(world):
    with Socket(world, "count") as client:
        ask(client, id="c", item=counting(4))
        answers = until_final(client, "c")
        same([answer["prediction"]["value"] for answer in answers[:4]], [[0], [1], [2], [3]])
        same(answers[4], {"id": "c", "results": 4, "final": True})


@SUITE.check
def many_requests_on_one_connection(world):
    with Socket(world, "count") as client:
        for at in range(8):
            ask(client, id=str(at), item=counting(10, pause_ms=1))
        got = {str(at): [] for at in range(8)}
        while not all(answers and answers[-1].get("final") for answers in got.values()):
            answer = client.message()
            got[answer["id"]].append(answer)
        for request_id, answers in got.items():
            same([answer["prediction"]["value"][0] for answer in answers[:-1]], list(range(10)), request_id)


@SUITE.check
def errors_end_one_request(world):
    with Socket(world, "count") as client:
        ask(client, id="e", item=counting(5, fail_at=2))
        answers = until_final(client, "e")
        same([answer["prediction"]["value"][0] for answer in answers[:2]], [0, 1])
        same((answers[2]["code"], len(answers)), ("model_error", 3))
        assert "told to fail at 2" in answers[2]["error"]
        for broken in (b"{", b"[]", b'{"id":"x"}', b'{"item":[1]}', b'{"id":7,"item":[1]}'):
            client.send(frame(TEXT, broken))
            answer = client.message()
            same(answer["code"], "invalid_input", str(answer))
        ask(client, id="f", item=counting(1))
        same(until_final(client, "f")[0]["prediction"]["value"], [0])


@SUITE.check
def an_id_that_is_on_its_way(world):
    with Socket(world, "count") as client:
        ask(client, id="twice", item=counting(50, pause_ms=5))
        client.message()
        ask(client, id="twice", item=counting(1))
        while (answer := client.message()).get("code") is None:
            pass
        same(answer["code"], "invalid_input")


@SUITE.check
def a_request_is_cancelled(world):
    gone = world.counted("cancelled", "count")
    with Socket(world, "count") as client:
        ask(client, id="long", item=counting(100_000, pause_ms=2))
        client.message()
        ask(client, cancel="long")
        answers = [client.message()]
        while not answers[-1].get("final"):
            answers.append(client.message())
        wait_for(lambda: world.counted("cancelled", "count") == gone + 1, 3)
        ask(client, id="next", item=counting(1))
        same(until_final(client, "next")[0]["prediction"]["value"], [0])


@SUITE.check
def a_client_that_leaves_stops_the_model(world):
    gone = world.counted("cancelled", "count")
    with Socket(world, "count") as client:
        ask(client, id="long", item=counting(100_000, pause_ms=2))
        client.message()
    wait_for(lambda: world.counted("cancelled", "count") == gone + 1, 3)


@SUITE.check
def a_client_that_does_not_read_holds_up_nobody(world):
    with Socket(world, "count") as client, Socket(world, "count") as other:
        ask(client, id="long", item=counting(200_000))
        client.message()
        started = time.monotonic()
        ask(other, id="quick", item=counting(20))
        same(len(until_final(other, "quick")), 21)
        assert time.monotonic() - started < 3
        for wanted in range(1, 500):
            same(client.message()["prediction"]["value"], [wanted])


@SUITE.check
def the_library_websockets(world):
    async def main():
        async with websockets.connect(f"ws://{world.http_url}{PATH.format('fp32')}") as client:
            for at in range(20):
                await client.send(json.dumps({"id": str(at), "item": [at]}))
            got = {(answer := json.loads(await client.recv()))["id"]: answer["prediction"]["output"] for _ in range(20)}
            same(got, {str(at): [at] for at in range(20)})
            latency = await (await client.ping())
            assert latency < SOON_S
        same(client.close_code, 1000)

    asyncio.run(main())


@SUITE.check
def the_library_aiohttp(world):
    async def main():
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"http://{world.http_url}{PATH.format('tokens')}") as client,
        ):
            await client.send_json({"id": "t", "item": ["a b c"]})
            got = []
            while not got or not got[-1].get("final"):
                got.append(await client.receive_json(timeout=10))
            same([answer["prediction"]["text_output"] for answer in got[:-1]], [["a"], ["b"], ["c"]])

    asyncio.run(main())
