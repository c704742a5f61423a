"""The rules of HTTP/2 (RFC 9113), section by section, on both ports: what is broken is refused in the way the section says, and what is
merely unusual is borne. Floods and malformed requests are in tests/hostile."""

import struct

from suite import Suite, same
from wire2 import Grpc
from world import wire

SUITE = Suite("HTTP/2")
NO_ERROR, PROTOCOL, FLOW_CONTROL, STREAM_CLOSED, FRAME_SIZE, COMPRESSION = 0, 1, 3, 5, 6, 9
PRIORITY, GOAWAY = 2, 7
PADDED, PRIORITISED = 8, 32

frame, setting, Gone, Reset = wire.frame, wire.setting, wire.Gone, wire.Reset
DATA, HEADERS, RST, SETTINGS, PING = wire.DATA, wire.HEADERS, wire.RST_STREAM, wire.SETTINGS, wire.PING
WINDOW, CONTINUATION = wire.WINDOW_UPDATE, wire.CONTINUATION
END, ENDS_HEADERS, ACK = wire.END_STREAM, wire.END_HEADERS, wire.ACK
BLOCK = wire.hpack(wire.fields_of("GET", "/v2/health/live"))
POST = wire.hpack(wire.fields_of("POST", "/v2/models/slow/infer", ("content-type", "application/json")))


def opened(stream=1):
    """A request whose body is to come."""
    return frame(HEADERS, ENDS_HEADERS, stream, POST)


def whole(stream=1):
    return frame(HEADERS, ENDS_HEADERS | END, stream, BLOCK)


# What ends the connection: the bytes, and the codes of the GOAWAY; a server may also close without one, and the plain PROTOCOL_ERROR may
# stand for the others.
ENDS_CONNECTION = {
    "4.2 a frame beyond the largest size": (
        frame(HEADERS, ENDS_HEADERS, 1, b"\0" * 20_000),
        (FRAME_SIZE, PROTOCOL, COMPRESSION),
    ),
    "4.3 a block that cannot be decoded": (frame(HEADERS, ENDS_HEADERS, 1, b"\xff" * 16), (COMPRESSION,)),
    "4.3 another frame within a block": (
        frame(HEADERS, END, 1, BLOCK) + frame(PRIORITY, 0, 1, b"\0\0\0\0\0"),
        (PROTOCOL,),
    ),
    "4.3 another stream within a block": (frame(HEADERS, END, 1, BLOCK) + whole(3), (PROTOCOL,)),
    "5.1 DATA on an idle stream": (frame(DATA, END, 1, b"x"), (PROTOCOL, STREAM_CLOSED)),
    "5.1 RST_STREAM on an idle stream": (frame(RST, 0, 1, b"\0\0\0\x08"), (PROTOCOL,)),
    "5.1 WINDOW_UPDATE on an idle stream": (frame(WINDOW, 0, 1, b"\0\0\0\1"), (PROTOCOL,)),
    "5.1 CONTINUATION on an idle stream": (frame(CONTINUATION, ENDS_HEADERS, 1, BLOCK), (PROTOCOL,)),
    "5.1.1 an even stream": (whole(2), (PROTOCOL,)),
    "5.1.1 a stream below one that was used": (whole(5) + whole(3), (PROTOCOL, STREAM_CLOSED)),
    "6.1 DATA on stream 0": (frame(DATA, 0, 0, b"x"), (PROTOCOL,)),
    "6.1 padding longer than DATA": (opened() + frame(DATA, PADDED | END, 1, b"\x05abc"), (PROTOCOL,)),
    "6.2 HEADERS on stream 0": (frame(HEADERS, ENDS_HEADERS, 0, BLOCK), (PROTOCOL,)),
    "6.2 padding longer than HEADERS": (
        frame(HEADERS, PADDED | ENDS_HEADERS | END, 1, b"\xff" + BLOCK[:8]),
        (PROTOCOL,),
    ),
    "6.3 PRIORITY on stream 0": (frame(PRIORITY, 0, 0, b"\0\0\0\1\0"), (PROTOCOL,)),
    "6.4 RST_STREAM on stream 0": (frame(RST, 0, 0, b"\0\0\0\x08"), (PROTOCOL,)),
    "6.4 RST_STREAM of 3 bytes": (opened() + frame(RST, 0, 1, b"\0\0\0"), (FRAME_SIZE,)),
    "6.5 an acknowledgement with settings": (frame(SETTINGS, ACK, 0, setting(3, 1)), (FRAME_SIZE,)),
    "6.5 SETTINGS on a stream": (frame(SETTINGS, 0, 1, setting(3, 1)), (PROTOCOL,)),
    "6.5 SETTINGS of 3 bytes": (frame(SETTINGS, 0, 0, b"\0\0\0"), (FRAME_SIZE,)),
    "6.5.2 push that is neither on nor off": (frame(SETTINGS, 0, 0, setting(2, 2)), (PROTOCOL,)),
    "6.5.2 a window beyond 2^31": (frame(SETTINGS, 0, 0, setting(4, 1 << 31)), (FLOW_CONTROL,)),
    "6.5.2 a frame size below the least": (frame(SETTINGS, 0, 0, setting(5, 16383)), (PROTOCOL,)),
    "6.5.2 a frame size beyond the most": (frame(SETTINGS, 0, 0, setting(5, 1 << 24)), (PROTOCOL,)),
    "6.6 PUSH_PROMISE from a client": (frame(5, ENDS_HEADERS, 1, b"\0\0\0\2" + BLOCK), (PROTOCOL,)),
    "6.7 PING on a stream": (frame(PING, 0, 1, b"12345678"), (PROTOCOL,)),
    "6.7 PING of 7 bytes": (frame(PING, 0, 0, b"1234567"), (FRAME_SIZE,)),
    "6.8 GOAWAY on a stream": (frame(GOAWAY, 0, 1, struct.pack(">II", 0, 0)), (PROTOCOL,)),
    "6.9 WINDOW_UPDATE of nothing": (frame(WINDOW, 0, 0, b"\0\0\0\0"), (PROTOCOL,)),
    "6.9 WINDOW_UPDATE of 3 bytes": (frame(WINDOW, 0, 0, b"\0\0\1"), (FRAME_SIZE,)),
    "6.9.1 a window that overflows": (frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"), (FLOW_CONTROL,)),
    "6.10 CONTINUATION behind a whole block": (
        whole() + frame(CONTINUATION, ENDS_HEADERS, 1, BLOCK),
        (PROTOCOL, STREAM_CLOSED),
    ),
    "6.10 CONTINUATION on stream 0": (
        frame(HEADERS, END, 1, BLOCK) + frame(CONTINUATION, ENDS_HEADERS, 0, b""),
        (PROTOCOL,),
    ),
    "6.10 CONTINUATION behind DATA": (
        opened() + frame(DATA, 0, 1, b"x") + frame(CONTINUATION, ENDS_HEADERS, 1, BLOCK),
        (PROTOCOL,),
    ),
}


@SUITE.over(ENDS_CONNECTION)
def what_ends_the_connection(world, case):
    data, codes = case
    for port in {world.port, world.grpc_port}:
        with wire.Http2(port) as client:
            client.send(data)
            code = client.until_gone(2)
            assert code is not False, f"port {port}: the connection stays"
            assert code in (None, PROTOCOL, *codes), f"port {port}: expected GOAWAY with one of {codes}, got {code}"


# What ends the stream, or the connection.
WITHOUT_BODY = frame(HEADERS, ENDS_HEADERS | END, 1, POST)
ENDS_STREAM = {
    "5.1 DATA on a half-closed stream": WITHOUT_BODY + frame(DATA, END, 1, b"x"),
    "5.1 HEADERS on a half-closed stream": WITHOUT_BODY + frame(HEADERS, ENDS_HEADERS | END, 1, POST),
    "5.1 DATA behind RST_STREAM": opened() + frame(RST, 0, 1, b"\0\0\0\x08") + frame(DATA, END, 1, b"x"),
    "6.9 WINDOW_UPDATE of nothing on a stream": opened() + frame(WINDOW, 0, 1, b"\0\0\0\0"),
    "6.9.1 a stream's window that overflows": opened() + frame(WINDOW, 0, 1, b"\x7f\xff\xff\xff"),
    "8.1 HEADERS again that do not end the stream": opened()
    + frame(HEADERS, ENDS_HEADERS, 1, wire.hpack([("x", "y")])),
    "8.3 a pseudo-header in a trailer": opened() + frame(HEADERS, ENDS_HEADERS | END, 1, wire.hpack([(":path", "/")])),
}


@SUITE.over(ENDS_STREAM)
def what_ends_the_stream(world, data):
    for port in {world.port, world.grpc_port}:
        with wire.Http2(port) as client:
            client.send(data)
            ended = ending(client)
            assert ended, f"port {port}: the stream goes on"


def ending(client):
    """How stream 1 ended: a reset, a refusal, or the end of the connection."""
    client.sock.settimeout(2)
    status = None
    try:
        while True:
            kind, flags, stream, payload = client.read()
            if stream == 1 and kind == RST:
                return f"reset {int.from_bytes(payload)}"
            if stream == 1 and kind == HEADERS and status is None:
                status = wire.status_of(payload)
            if stream == 1 and kind in (HEADERS, DATA) and flags & END:
                return f"status {status}"
    except Gone as gone:
        return str(gone)
    except TimeoutError:
        return None


# What is unusual and allowed: behind it a request is answered.
BORNE = {
    "4.1 a frame of an unknown kind": frame(0x16, 0xFF, 0, b"whatever"),
    "4.1 an unknown kind on an idle stream": frame(0x16, 0, 0, b"12345678"),
    "4.1 flags that do not exist": frame(PING, 0x16, 0, b"12345678"),
    "5.3 PRIORITY of an idle stream": frame(PRIORITY, 0, 9, b"\0\0\0\0\x10"),
    "6.5.2 a setting that is not known": frame(SETTINGS, 0, 0, setting(0xFF, 7)),
    "6.5.3 the same setting twice": frame(SETTINGS, 0, 0, setting(4, 100) + setting(4, 65535)),
    "6.7 an answer to no PING": frame(PING, ACK, 0, b"12345678"),
}


@SUITE.over(BORNE)
def what_is_borne(world, data):
    with wire.Http2(world.port) as client:
        client.send(data)
        same(client.ask(wire.fields_of("GET", "/v2/health/live")).status, 200)


@SUITE.check
def padding_and_priority_in_headers(world):
    with wire.Http2(world.port) as client:
        client.send(
            frame(HEADERS, ENDS_HEADERS | END | PADDED | PRIORITISED, 1, b"\x03" + b"\0\0\0\0\x10" + BLOCK + b"\0\0\0")
        )
        same(client.answer(1).status, 200)


@SUITE.check
def a_ping_is_answered_with_its_payload(world):
    for port in {world.port, world.grpc_port}:
        with wire.Http2(port) as client:
            client.send(frame(PING, 0, 0, b"jitney!!"))
            while True:
                kind, flags, _, payload = client.read()
                if kind == PING and flags & ACK:
                    break
            same(payload, b"jitney!!")


@SUITE.check
def settings_are_acknowledged(world):
    with wire.Http2(world.port) as client:
        seen = set()
        while len(seen) < 2:
            kind, flags, stream, _ = client.read()
            if kind == SETTINGS:
                same(stream, 0)
                seen.add(bool(flags & ACK))


@SUITE.check
def a_window_that_shrinks_below_nothing(world):
    """6.9.2: what was sent before counts, and the answer goes on when there is room again."""
    with wire.Http2(world.port, setting(4, 3)) as client:
        stream = client.begin(wire.fields_of("GET", "/v2"))
        got = b""
        client.sock.settimeout(2)
        while len(got) < 3:
            kind, _, of, payload = client.read()
            if kind == DATA and of == stream:
                got += payload
        same(len(got), 3)
        client.send(frame(SETTINGS, 0, 0, setting(4, 1)))
        client.send(frame(WINDOW, 0, stream, struct.pack(">I", 4)))
        kind, payload = 0, b""
        while not payload:
            kind, _, of, payload = client.read()
            payload = payload if kind == DATA and of == stream else b""
        same(len(payload), 2)
        client.send(frame(WINDOW, 0, stream, struct.pack(">I", 1 << 20)))
        while True:
            kind, flags, of, payload = client.read()
            if of == stream and flags & END:
                break


@SUITE.check
def another_implementation_finds_no_fault(world):
    """hyper-h2 checks every frame that it is sent."""
    with Grpc(world.port, content_type="application/json") as client:
        body = (
            b'{"inputs":[{"name":"input","shape":[1,60000],"datatype":"FP32","data":['
            + b",".join([b"0.5"] * 60000)
            + b"]}]}"
        )
        streams = [client.begin("/v2/models/fp32/infer", body) for _ in range(8)]
        for stream in streams:
            answer = client.answer(stream)
            same((answer.http_status, len(answer.body) > 200_000), ("200", True), str(answer)[:300])
