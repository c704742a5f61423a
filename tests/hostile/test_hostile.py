"""The hostile user of a built server: what is malformed, too much, too slow or rude gets its status and a sentence, and costs nobody else anything.

    JITNEY_BIN=target/debug/jitney python3 tests/hostile/test_hostile.py [WORD]...

Standard library and raw sockets only. With words, only the checks whose names have one of them are run. Every check prints a line;
behind each the server must be live and ready, answer, and hold no more memory, descriptors and threads than before.
"""

import contextlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx_files
from served import ROOT, Health, Served, binary, wait_for
from tables import BATCH, BODIES, GOOD, HEADS, INFER, JSON_TYPE, MIB, PREDICT, RAW, SECOND, SMUGGLED, infer, nested
from wire import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Answer,
    Client,
    Gone,
    Http2,
    Reset,
    ask,
    connect,
    fields_of,
    frame,
    hpack,
    request,
    setting,
)

BODY_LIMIT = 5 * MIB
# An answer that takes longer than this is late, on whatever machine.
SOON_S = 1.0

MODELS = {
    "echo": "echo:FP32[4]",
    "canary": "echo:FP32[1]",
    "byte": "echo:UINT8[2]",
    "square": "echo:FP32[2,2]",
    "long": "echo:INT64[1]",
    "half": "echo:FP16[2]",
    "brain": "echo:BF16[2]",
    "word": "echo:BYTES[1]",
    "yes": "echo:BOOL[1]",
    "free": "echo:FP32[-1]",
    "two": "echo:a=FP32[2],b=INT64[1]",
    "faulty": "echo:FP32[2],faulty=true,hang_ms=400",
}
# What needs settings of its own.
FOLDERS = {
    "narrow": 'queue = 2\nmax_batch = 1\nrow_by_row = true\n[echo]\ninputs = ["FP32[1]"]\ncall_ms = 150\n',
    "limited": 'run_limit_ms = 200\n[echo]\ninputs = ["FP32[1]"]\nfaulty = true\nhang_ms = 600\n',
    "gate": 'max_batch = 4\n[echo]\ninputs = ["FP32[1]"]\nfaulty = true\nhang_ms = 400\n',
    "late": 'max_batch = 4\n[echo]\ninputs = ["FP32[1]"]\nfaulty = true\nhang_ms = 500\n',
    "mates": 'max_batch = 4\nmax_wait_ms = 100\n[echo]\ninputs = ["FP32[1]"]\ncall_ms = 100\n',
}
# The values by which a row makes a faulty echo fail.
RAISE, PANIC, SHORT, LONG, HANG, INVALID = -1, -2, -3, -4, -5, -6


def check_body(served, route, model, body, words):
    answer = served.ask("POST", route.format(model), body, headers=["Content-Length: 0"] if not body else ())
    expect(answer, 400, "invalid_input", words)


def check_raw(served, model, text, tail, words):
    header = f"Inference-Header-Content-Length: {len(text)}"
    answer = served.ask("POST", INFER.format(model), text.encode() + tail, headers=[header])
    expect(answer, 400, "invalid_input", words)


def check_head(served, method, path, more, status, code, words):
    answer = served.ask(method, path, **{"body": b"", **more})
    expect(answer, status, code, words)
    assert ("allow" in answer.headers) == (status == 405), answer.headers


def check_smuggled(served, data):
    """One refusal, then the end; what follows in the same packet or later never runs."""
    before = served.metrics().sum("jitney_received_items_total", model="canary")
    for pause_s in (0, 0.02):
        with Client(served.port) as client:
            client.send(data if pause_s else data + SECOND)
            answer = client.answer()
            assert answer is not None, "closed without an answer"
            expect(answer, 400, "invalid_input", "HTTP/1.1|Host")
            assert answer.headers.get("connection") == "close", answer.headers
            if pause_s:
                client.send(SECOND)
            assert client.closed(within=SOON_S), "the connection stays open, or something else was answered"
    assert served.metrics().sum("jitney_received_items_total", model="canary") == before, "the second request ran"


def expect(answer: Answer, status, code, words="."):
    """Status, code and text are as said, and it was soon."""
    got = answer.code
    assert answer.status == status and re.fullmatch(code, got or ""), (
        f"expected {status} {code}, got {answer.status} {answer.body[:300]}"
    )
    assert re.search(words, answer.error), f"expected /{words}/ in the text, got {answer.error!r}"
    assert len(answer.error) < 600, f"a sentence of {len(answer.error)} characters"
    assert answer.took_s < SOON_S, f"answered only after {answer.took_s:.2f} s"


# Checks that take more than one request, by what they are about.


def error_table(served):
    """The rows of the table of errors that the models bring about."""
    rows = [
        ("faulty", (RAISE, 0), 500, "model_error", "EchoError"),
        ("faulty", (PANIC, 0), 500, "worker_crashed", "crashed"),
        ("faulty", (SHORT, 0), 500, "output_mismatch", "rows"),
        ("faulty", (LONG, 0), 500, "output_mismatch", "rows"),
        ("faulty", (INVALID, 0), 400, "invalid_input", "told to refuse"),
        ("limited", (HANG,), 504, "deadline_exceeded", "limit"),
        ("broken", (1,), 503, "failed", "could not be loaded"),
    ]
    for model, values, status, code, words in rows:
        expect(served.predict(model, *values), status, code, words)
        assert served.predict("faulty", 1, 2).status == 200
    wait_for(lambda: served.predict("limited", 1).status == 200, 3)
    assert served.ask("GET", "/v2/models/broken/ready").code == "failed"
    assert served.ask("GET", "/v2/models/broken").code == "failed"


def one_bad_item_costs_one_answer(served):
    for fault, code in [(RAISE, "model_error"), (PANIC, "worker_crashed"), (INVALID, "invalid_input")]:
        items = [[1, 1], [2, 2], [fault, 0], "x", [3, 3], [1], [4, 4]]
        answer = served.ask("POST", "/predict/faulty/batch", json.dumps(items))
        assert answer.status == 200, answer.body
        codes = [item.get("code", "ok") for item in answer.json()]
        assert codes == ["ok", "ok", code, "invalid_input", "ok", "invalid_input", "ok"], codes


def halves_are_predicted(served):
    for model in ("half", "brain"):
        answer = served.predict(model, 0.5, -2)
        assert answer.json() == {"prediction": {"output": [0.5, -2]}}, answer.body


def special_numbers_stay_strict_json(served):
    answer = served.ask("POST", "/predict/echo", "[NaN,Infinity,-Infinity,1]")

    def no_constants(word):
        raise AssertionError(f"the answer has the bare word {word}")

    body = json.loads(answer.body, parse_constant=no_constants)
    assert body == {
        "prediction": {"output": ["NaN", "Infinity", "-Infinity", 1]},
        "parameters": {"output": {"non_finite": 3}},
    }, body


def too_large_bodies(served):
    with Client(served.port) as client:
        length = BODY_LIMIT + 1
        client.send(request("POST", "/predict/echo", headers=[f"Content-Length: {length}", "Expect: 100-continue"]))
        answer = client.answer()
        assert answer is not None and answer.status != 100, "it asked for the body"
        expect(answer, 413, "too_large", str(BODY_LIMIT))
        assert client.closed(), "the connection stays open"
    for length in (BODY_LIMIT + 1, 10**12, 10**17):
        with Client(served.port) as client:
            client.send(request("POST", "/v2/models/echo/infer", headers=[f"Content-Length: {length}"]) + b"x" * 1000)
            answer = client.answer()
            assert answer is not None, length
            expect(answer, 413, "too_large", "limit")
            assert client.closed()
    with Client(served.port) as client:
        piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        client.send(request("POST", "/predict/echo", headers=["Transfer-Encoding: chunked"]))
        client.send(piece * (BODY_LIMIT // 0x10000 + 16))
        answer = client.answer()
        assert answer is not None
        expect(answer, 413, "too_large", "limit")
        assert client.closed()


def compression_bombs(served):
    """Bodies of 2 GiB that come as one or two megabytes: what comes out counts as it comes, and is given back."""
    for coding, bits in [("gzip", 31), ("deflate", 15), ("deflate", -15)]:
        packer = zlib.compressobj(1, zlib.DEFLATED, bits)
        piece = b" " * (16 * MIB)
        small = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
        # Behind a full flush the same bytes stand for the same again.
        again = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
        bomb = small + again * 127
        assert len(bomb) < 2 * BODY_LIMIT
        fields = [f"Content-Encoding: {coding}"]
        before = served.peak_rss_mib(reset=True)
        for _ in range(40):
            answer = served.ask("POST", "/predict/echo", bomb[:BODY_LIMIT], headers=fields)
            expect(answer, 413, "too_large", str(BODY_LIMIT))
        grown = served.peak_rss_mib() - before
        assert grown < 2 * BODY_LIMIT / MIB + 16, f"{coding} with {bits}: {grown:.0f} MiB more"
    for coding in ("br", "zstd"):
        answer = served.ask("POST", "/predict/echo", b"\0" * 1000, headers=[f"Content-Encoding: {coding}"])
        expect(answer, 415, "unsupported_media_type", "Content-Encoding")


def raw_tensors_come_back_to_the_last_bit(served):
    bits = bytes.fromhex("0100c07f 010080ff 00000080 ffff7f7f")
    parameters = '"parameters":{"binary_data_size":16}'
    text = f'{{"parameters":{{"binary_data_output":true}},"inputs":[{{"name":"input","shape":[1,4],"datatype":"FP32",{parameters}}}]}}'
    for length, body in [(len(text), text.encode() + bits), (0, bits)]:
        answer = served.ask(
            "POST",
            "/v2/models/echo/infer",
            body,
            headers=[f"Inference-Header-Content-Length: {length}"],
            content_type="application/octet-stream",
        )
        assert answer.status == 200, answer.body
        assert answer.body[int(answer.headers["inference-header-content-length"]) :] == bits


def large_bodies_are_given_back(served):
    """Many large bodies that end as refusals, together more than may stay."""
    body = b"[" + b"1," * (BODY_LIMIT // 2 - 2)
    for _ in range(8):
        expect_status(served.ask("POST", "/predict/echo", body), 400)


def expect_status(answer, *statuses):
    assert answer.status in statuses, f"expected one of {statuses}, got {answer.status} {answer.body[:200]}"
    return answer.code


def unread_bodies_do_not_become_requests(served):
    """A refusal that comes before the body was read must not take the body for the next request."""
    before = served.metrics().sum("jitney_received_items_total", model="canary")
    with Client(served.port) as client:
        client.send(request("POST", "/nowhere", SECOND, content_type="text/plain"))
        client.send(request("GET", "/v2/health/live"))
        first, second = client.answer(), client.answer()
    assert first is not None and first.status == 404
    assert second is None or (second.status == 200 and second.json() == {"live": True}), second
    assert served.metrics().sum("jitney_received_items_total", model="canary") == before


def pipelined_requests_are_answered_in_order(served):
    with Client(served.port) as client:
        client.send(
            request("POST", "/predict/canary", "[1]")
            + request("GET", "/nowhere")
            + request("POST", "/predict/canary", "[2]")
        )
        answers = [client.answer() for _ in range(3)]
    assert [answer.status for answer in answers if answer] == [200, 404, 200]


def overload(served):
    """Beyond the queue requests are refused at once, and the others answered."""
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda at: served.predict("narrow", at), range(12)))
    refused = [answer for answer in answers if answer.status != 200]
    assert 0 < len(refused) < 12, [answer.status for answer in answers]
    for answer in refused:
        assert (answer.status, answer.code) == (429, "overloaded"), answer.body
        assert answer.took_s < 0.25, f"refused only after {answer.took_s:.3f} s"


def rows_run(served, model):
    return served.metrics().sum("jitney_batch_rows_sum", model=model)


def cancelled(served, model):
    return served.metrics().sum("jitney_requests_total", model=model, code="cancelled")


def hold(served, model, value=HANG):
    """Sends the row that keeps the only instance busy, and waits until it runs."""
    client = Client(served.port)
    client.send(request("POST", f"/predict/{model}", f"[{value}]"))
    wait_for(lambda: served.metrics().sum("jitney_running_items", model=model) == 1, 2)
    return client


def queued_requests_of_those_who_left_never_run(served):
    leaving = 24
    rows, gone = rows_run(served, "gate"), cancelled(served, "gate")
    holder = hold(served, "gate")
    clients = [Client(served.port) for _ in range(leaving)]
    for client in clients:
        client.send(request("POST", "/predict/gate", "[1]"))
    wait_for(lambda: served.metrics().sum("jitney_queued_items", model="gate") == leaving, 2)
    for client in clients:
        client.close()
    wait_for(
        lambda: cancelled(served, "gate") == gone + leaving, 0.3, lambda: "not all were counted as cancelled at once"
    )
    stays = Client(served.port)
    stays.send(request("POST", "/predict/gate", "[7]"))
    answer, last = holder.answer(), stays.answer()
    assert answer is not None and answer.status == 200
    assert last is not None and last.status == 200
    holder.close(), stays.close()
    assert rows_run(served, "gate") == rows + 2, "a request was run though its client had left"
    assert cancelled(served, "gate") == gone + leaving


def batch_mates_of_one_who_left_are_answered(served):
    gone = cancelled(served, "mates")
    clients = [Client(served.port) for _ in range(4)]
    for at, client in enumerate(clients):
        client.send(request("POST", "/predict/mates", f"[{at}]"))
    wait_for(lambda: served.metrics().sum("jitney_running_items", model="mates") >= 1, 2)
    clients[1].close()
    for at in (0, 2, 3):
        answer = clients[at].answer()
        assert answer is not None and answer.json() == {"prediction": {"output": [at]}}, answer
        clients[at].close()
    wait_for(lambda: cancelled(served, "mates") == gone + 1, 1)


def those_who_leave_with_half_a_request_are_counted(served):
    times = 20
    gone = cancelled(served, "echo")
    head = request("POST", "/predict/echo", headers=["Content-Length: 9"])
    for part in (head, head + b"[1,2", head[:-30]):
        for _ in range(times):
            with Client(served.port) as client:
                client.send(part)
    # Those of the third kind never were a request.
    wait_for(lambda: cancelled(served, "echo") >= gone + 2 * times, 2)
    time.sleep(0.05)
    assert cancelled(served, "echo") == gone + 2 * times


def those_who_do_not_wait_for_the_end_of_an_answer(served):
    body = infer("[1,300000]", "[" + ",".join(["0.25"] * 300000) + "]")
    for _ in range(4):
        with Client(served.port) as client:
            client.send(request("POST", "/v2/models/free/infer", body))
            assert client.sock.recv(1000).startswith(b"HTTP/1.1 200")


def streams_that_are_reset_are_counted(served):
    times = 16
    rows, gone = rows_run(served, "gate"), cancelled(served, "gate")
    holder = hold(served, "gate")
    with Http2(served.port) as client:
        streams = [client.begin(prediction_fields("gate"), b"[1]") for _ in range(times)]
        wait_for(lambda: served.metrics().sum("jitney_queued_items", model="gate") == times, 2)
        client.send(b"".join(frame(RST_STREAM, 0, stream, b"\0\0\0\x08") for stream in streams))
        wait_for(lambda: cancelled(served, "gate") == gone + times, 0.3)
        holder.answer()
        holder.close()
        assert client.ask(prediction_fields("echo"), GOOD.encode()).status == 200
    assert rows_run(served, "gate") == rows + 1
    assert cancelled(served, "gate") == gone + times


def in_time(run, attempts=3):
    """Runs something that gives answers until each has come within 50 ms of its deadline of 100 ms. A busy machine may spoil an attempt."""
    for attempt in range(attempts):
        answers = run()
        late = [answer.took_s for answer in answers if not 0.1 <= answer.took_s < 0.15]
        if not late:
            return answers
        assert min(late) >= 0.1 and attempt + 1 < attempts, f"answered after {late} s"
    return []


def deadlines_behind_a_busy_model(served):
    """Each way to say it, and the smallest wins; nobody waits for the batch to end."""
    asked = [
        (["X-Request-Timeout-Ms: 100"], "/predict/late", "[1]"),
        ((), "/v2/models/late/infer", infer("[1,1]", "[1]", top='"parameters":{"timeout":100000},')),
        (
            ["X-Request-Timeout-Ms: 5000"],
            "/v2/models/late/infer",
            infer("[1,1]", "[1]", top='"parameters":{"timeout":100000},'),
        ),
        (
            ["X-Request-Timeout-Ms: 100"],
            "/v2/models/late/infer",
            infer("[1,1]", "[1]", top='"parameters":{"timeout":5000000},'),
        ),
    ]

    def attempt():
        rows = rows_run(served, "late")
        holder = hold(served, "late")
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda one: served.ask("POST", one[1], one[2], one[0]), asked))
        answer = holder.answer()
        assert answer is not None and answer.status == 200
        holder.close()
        assert rows_run(served, "late") == rows + 1, "a request was run after its deadline"
        return answers

    for answer in in_time(attempt):
        expect(answer, 504, "deadline_exceeded", "deadline")


def deadlines_inside_a_busy_model(served):
    def attempt():
        answer = served.ask("POST", "/predict/late", f"[{HANG}]", ["X-Request-Timeout-Ms: 100"])
        expect(answer, 504, "deadline_exceeded")
        idle(served, "late")
        return [answer]

    in_time(attempt)


def deadlines_of_a_batch_of_items(served):
    def attempt():
        answer = served.ask("POST", "/predict/late/batch", f"[[{HANG}],[1]]", ["X-Request-Timeout-Ms: 100"])
        assert answer.status == 200, answer.body
        assert {item.get("code") for item in answer.json()} == {"deadline_exceeded"}, answer.body
        idle(served, "late")
        return [answer]

    in_time(attempt)


def idle(served, model):
    wait_for(lambda: served.metrics().sum("jitney_running_items", model=model) == 0, 2)


# HTTP/2


def prediction_fields(model, *more):
    return fields_of("POST", f"/predict/{model}", ("content-type", JSON_TYPE), *more)


def http2_refusals(served):
    """The same refusals as in HTTP/1.1, each on a stream of its own."""
    rows = [
        (prediction_fields("echo"), b"[1,2]", 400, "invalid_input"),
        (prediction_fields("none"), b"[1]", 404, "unknown_model"),
        (fields_of("GET", "/nowhere"), None, 404, "not_found"),
        (fields_of("GET", "/predict/echo"), None, 405, "method_not_allowed"),
        (fields_of("TRACE", "/"), None, 405, "method_not_allowed"),
        (fields_of("POST", "/predict/echo"), b"[1]", 415, "unsupported_media_type"),
        (fields_of("GET", "/v2", authority="evil.example"), None, 421, "misdirected_request"),
        (fields_of("GET", "/v2", ("host", "evil.example")), None, 421, "misdirected_request"),
        (fields_of("GET", "/v2", ("origin", "http://evil.example")), None, 403, "forbidden"),
        (prediction_fields("echo", ("content-length", str(BODY_LIMIT + 1))), b"[1", 413, "too_large"),
        (fields_of("GET", "/v2", *[("x", "y")] * 101), None, 431, "headers_too_large"),
        (fields_of("GET", "/v2", ("x", "y" * 40000)), None, 431, "headers_too_large"),
        (fields_of("GET", "/" + "a" * 40000), None, 431, "headers_too_large"),
    ]
    with Http2(served.port) as client:
        for fields, body, status, code in rows:
            try:
                answer = client.ask(fields, body)
            except Reset as reset:
                # The server may also end a stream whose declared length was not kept.
                assert status == 413, f"{fields[:3]} was reset with {reset}"
                continue
            expect(answer, status, code)
        assert client.ask(prediction_fields("echo"), GOOD.encode()).status == 200


def http2_malformed_requests(served):
    """What no request may look like ends its stream or its connection, and is never run."""
    before = served.metrics().sum("jitney_received_items_total", model="canary")
    good = prediction_fields("canary")
    rows = {
        "Transfer-Encoding": prediction_fields("canary", ("transfer-encoding", "chunked")),
        "Connection": prediction_fields("canary", ("connection", "close")),
        "a name in capitals": prediction_fields("canary", ("X-Big", "1")),
        "a line end in a value": prediction_fields("canary", ("x", "a\r\nb: c")),
        "NUL in a value": prediction_fields("canary", ("x", "a\0b")),
        "a pseudo-header behind the others": [*good, (":path", "/")],
        "two paths": [(":path", "/predict/canary"), *good],
        "no path": [field for field in good if field[0] != ":path"],
        "an empty path": [(name, "" if name == ":path" else value) for name, value in good],
        "an unknown pseudo-header": [(":x", "y"), *good],
        "a status": [(":status", "200"), *good],
        "a length that is not kept": prediction_fields("canary", ("content-length", "1")),
        "a length that is no number": prediction_fields("canary", ("content-length", "x")),
    }
    for name, fields in rows.items():
        with Http2(served.port) as client:
            try:
                answer = client.ask(fields, b"[1]")
            except (Reset, Gone):
                continue
            assert answer.status == 400, f"{name}: {answer.status} {answer.body}"
    assert served.metrics().sum("jitney_received_items_total", model="canary") == before


def http2_broken_frames(served):
    """Each breaks the protocol: GOAWAY, or at least the end of the connection."""
    block = hpack(fields_of("GET", "/v2"))
    rows = {
        "a frame of 16 MB": frame(DATA, 0, 1, b"")[:0] + b"\xff\xff\xff" + frame(DATA, 0, 1)[3:],
        "DATA on stream 0": frame(DATA, 0, 0, b"x"),
        "DATA on a stream that is not open": frame(DATA, 0, 7, b"x"),
        "HEADERS on stream 0": frame(HEADERS, END_HEADERS, 0, block),
        "HEADERS on an even stream": frame(HEADERS, END_HEADERS, 2, block),
        "CONTINUATION without HEADERS": frame(CONTINUATION, END_HEADERS, 1, block),
        "another frame within a block of headers": frame(HEADERS, 0, 1, block) + frame(PING, 0, 0, b"12345678"),
        "headers that cannot be decoded": frame(HEADERS, END_HEADERS, 1, b"\xff" * 32),
        "a table beyond what was agreed": frame(HEADERS, END_HEADERS, 1, b"\x3f\xff\xff\xff\x7f" + block),
        "SETTINGS of 5 bytes": frame(SETTINGS, 0, 0, b"12345"),
        "an acknowledgement with settings": frame(SETTINGS, ACK, 0, setting(3, 1)),
        "a window beyond 2^31": frame(SETTINGS, 0, 0, setting(4, 1 << 31)),
        "a frame size of 1": frame(SETTINGS, 0, 0, setting(5, 1)),
        "PING of 7 bytes": frame(PING, 0, 0, b"1234567"),
        "WINDOW_UPDATE of 0": frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\0"),
        "windows that add up beyond 2^31": frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2,
        "RST_STREAM of an idle stream": frame(RST_STREAM, 0, 9, b"\0\0\0\0"),
        "PUSH_PROMISE": frame(5, END_HEADERS, 1, b"\0\0\0\2" + block),
    }
    for name, data in rows.items():
        with Http2(served.port) as client:
            client.send(data)
            assert client.until_gone(within=2) is not False, f"{name}: the connection stays"
    with Client(served.port) as client:
        client.send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n")
        answer = client.answer()
        assert answer is not None
        expect(answer, 400, "invalid_input", "HTTP/1.1")
        assert client.closed()


class Bystander:
    """Another client, which must notice nothing: a request every few milliseconds while the block runs."""

    def __init__(self, served, slowest_s=0.5):
        self.port, self.slowest_s = served.port, slowest_s
        self.took, self.failures, self.over = [], [], threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        with Client(self.port) as client:
            while not self.over.wait(0.005):
                try:
                    answer = client.ask("POST", "/predict/echo", GOOD)
                except (AssertionError, OSError) as error:
                    self.failures.append(error)
                    return
                self.took.append(answer.took_s)
                if answer.status != 200:
                    self.failures.append(answer)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.over.set()
        self.thread.join()
        if kind is None:
            assert not self.failures, self.failures[:3]
            slow = sorted(self.took)[int(len(self.took) * 0.99)]
            assert slow < self.slowest_s, f"the slowest answers of another client took {slow:.3f} s"


def flood(served, make, count, settings=b""):
    """Sends what `make` makes of each number as fast as it goes; what the server did about it."""
    refused = None
    with Bystander(served), Http2(served.port, settings) as client:
        stop = threading.Event()

        def read():
            try:
                while not stop.is_set():
                    client.read()
            except (Gone, OSError):
                pass

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for at in range(0, count, 500):
                client.send(b"".join(make(number) for number in range(at, min(at + 500, count))))
        except (Gone, TimeoutError) as error:
            refused = error
        client.sock.settimeout(0.2)
        time.sleep(0.1)
        refused = refused or client.went_away
        stop.set()
        with contextlib.suppress(OSError):
            client.sock.shutdown(socket.SHUT_RDWR)
        reader.join()
    idle_again(served)
    return refused


def idle_again(served):
    """The server's processor time stands still within two seconds."""
    end = time.monotonic() + 2
    while True:
        before = served.cpu_s()
        time.sleep(0.15)
        if served.cpu_s() - before <= 0.02:
            return
        assert time.monotonic() < end, "the server is still busy 2 s later"


def rapid_resets(served):
    block = hpack(prediction_fields("canary"))

    def one(number):
        stream = 2 * number + 1
        return frame(HEADERS, END_HEADERS, stream, block) + frame(RST_STREAM, 0, stream, b"\0\0\0\x08")

    rows = rows_run(served, "canary")
    flood(served, one, 100_000)
    assert rows_run(served, "canary") == rows


def resets_behind_whole_requests(served):
    block = hpack(prediction_fields("canary"))

    def one(number):
        stream = 2 * number + 1
        body = frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, 1, stream, b"[1]")
        return body + frame(RST_STREAM, 0, stream, b"\0\0\0\x08")

    flood(served, one, 30_000)


def resets_that_the_server_is_made_to_send(served):
    """Requests that are malformed on purpose, so that the server itself resets every stream."""
    block = hpack(prediction_fields("canary", ("connection", "close")))
    assert flood(served, lambda number: frame(HEADERS, END_HEADERS, 2 * number + 1, block), 50_000), "nothing ends it"


def window_updates_of_nothing(served):
    block = hpack(prediction_fields("canary"))

    def one(number):
        stream = 2 * number + 1
        return frame(HEADERS, END_HEADERS, stream, block) + frame(WINDOW_UPDATE, 0, stream, b"\0\0\0\0")

    assert flood(served, one, 50_000), "nothing ends it"


def settings_flood(served):
    flood(served, lambda number: frame(SETTINGS, 0, 0, setting(4, 65535 + number % 2)), 50_000)


def ping_flood(served):
    flood(served, lambda number: frame(PING, 0, 0, b"12345678"), 100_000)


def empty_data_flood(served):
    block = hpack(prediction_fields("canary"))
    flood(served, lambda number: frame(DATA, 0, 1) if number else frame(HEADERS, END_HEADERS, 1, block), 100_000)


def continuation_flood(served):
    block = hpack(prediction_fields("canary"))
    more = hpack([("x-more", "y" * 100)] * 20)
    refused = flood(
        served, lambda number: frame(CONTINUATION, 0, 1, more) if number else frame(HEADERS, 0, 1, block), 20_000
    )
    assert refused, "nothing ends it"


def empty_continuation_flood(served):
    block = hpack(prediction_fields("canary"))
    refused = flood(
        served, lambda number: frame(CONTINUATION, 0, 1) if number else frame(HEADERS, 0, 1, block), 100_000
    )
    assert refused, "nothing ends it"


def unread_answers_over_http1(served):
    """Requests without end, and not one answer read: the server must stop reading, not pile answers up."""
    with Bystander(served), Client(served.port, timeout=0.5) as client:
        try:
            for _ in range(2000):
                client.sock.sendall(request("GET", "/") * 50)
        except TimeoutError:
            pass
        else:
            raise AssertionError("it read 100,000 requests whose answers nobody takes")


def unread_pings(served):
    """PINGs and SETTINGS without end, and not one acknowledgement read."""
    with Bystander(served), Http2(served.port, timeout=0.5) as client:
        try:
            for _ in range(3000):
                client.send(frame(PING, 0, 0, b"12345678") * 500 + frame(SETTINGS, 0, 0, setting(4, 1)) * 100)
        except (TimeoutError, Gone):
            pass
        else:
            raise AssertionError("it read 1,800,000 frames whose acknowledgements nobody takes")


def closed_windows(served):
    """Answers for which there is no window stay few and small, whoever asks for them."""
    with Bystander(served), Http2(served.port, setting(4, 0)) as client:
        for _ in range(400):
            client.begin(fields_of("GET", "/"))
        time.sleep(0.3)


def compressed_headers(served):
    """One large header kept in the table and named thousands of times: a few kilobytes that stand for megabytes."""
    entry = b"\x40\x06x-bomb\x7f" + bytes([(3900 - 127) % 128 + 128, (3900 - 127) // 128]) + b"a" * 3900
    block = hpack(fields_of("GET", "/v2")) + entry + b"\xbe" * 12_000
    with Http2(served.port) as client:
        client.send(frame(HEADERS, 1 | END_HEADERS, 1, block))
        try:
            answer = client.answer(1)
        except (Reset, Gone):
            return
        expect(answer, 431, "headers_too_large")


def more_streams_than_allowed(served):
    holder = hold(served, "gate")
    with Http2(served.port) as client:
        streams, outcomes = [], []
        try:
            streams.extend(client.begin(prediction_fields("gate"), b"[1]") for _ in range(400))
        except Gone:
            # The server need not wait for the last of them.
            outcomes.append("refused")
        for stream in streams[:1] + streams[-1:]:
            try:
                outcomes.append(client.answer(stream).status)
            except (Reset, Gone):
                outcomes.append("refused")
    holder.answer()
    holder.close()
    assert "refused" in outcomes or 429 in outcomes, outcomes


# Slow clients, on a server whose patience is short.


def slow_heads(served):
    """Half a head, or nothing at all, or a byte now and then: all end within the limit."""
    started = time.monotonic()
    clients = [Client(served.port) for _ in range(60)]
    for at, client in enumerate(clients):
        client.send([b"GET /v2 HTTP/1.1\r\nHost: lo", b"", b"PRI * HTTP/2.0\r\n"][at % 3])
    for client in clients[::3]:
        for byte in b"calho":
            client.sock.sendall(bytes([byte]))
            time.sleep(0.004)
    for at, client in enumerate(clients):
        if at % 3 == 0:
            answer = client.answer()
            assert answer is not None
            assert (answer.status, answer.code) == (408, "request_timeout"), answer.body
        else:
            client.buffer = b""
            while client.sock.recv(4096):
                pass
        client.close()
    took = time.monotonic() - started
    assert took < 3, f"the last was closed after {took:.1f} s"


def slow_bodies(served):
    for headers, body in [(["Content-Length: 1000"], b"["), (["Transfer-Encoding: chunked"], b"1\r\n[\r\n")]:
        with Client(served.port) as client:
            client.send(request("POST", "/predict/echo", headers=headers) + body)
            started = time.monotonic()
            while time.monotonic() - started < 0.3:
                client.sock.sendall(b" " if "Length" in headers[0] else b"1\r\n \r\n")
                time.sleep(0.05)
            answer = client.answer()
            took = time.monotonic() - started
            assert answer is not None and (answer.status, answer.code) == (408, "request_timeout"), answer
            assert took < 2, f"answered after {took:.1f} s"
            assert client.closed(), "the connection stays open"


def idle_connections(served):
    with Client(served.port) as client:
        assert client.ask("GET", "/v2").status == 200
        assert client.closed(within=4), "an idle connection stays open"
    with Http2(served.port) as client:
        assert client.ask(fields_of("GET", "/v2")).status == 200
        assert client.until_gone(within=4) is not False, "an idle HTTP/2 connection stays open"


def slow_streams(served):
    """The same over HTTP/2: a body that does not come, and a head that does not end."""
    with Http2(served.port) as client:
        stream = client.next_stream
        client.send(frame(HEADERS, END_HEADERS, stream, hpack(prediction_fields("echo", ("content-length", "9")))))
        client.send(frame(DATA, 0, stream, b"["))
        started = time.monotonic()
        answer = client.answer(stream)
        assert (answer.status, answer.code) == (408, "request_timeout"), answer
        assert time.monotonic() - started < 2
    with Http2(served.port) as client:
        client.send(frame(HEADERS, 0, 1, hpack(prediction_fields("echo"))))
        assert client.until_gone(within=4) is not False, "a head without an end keeps the connection open"


def readers_that_stall(served):
    """A large answer of which nothing is read is given up, and what it held is given back."""
    body = infer("[1,200000]", "[" + ",".join(["0.123456"] * 200000) + "]")
    answered = lambda: served.metrics().sum("jitney_requests_total", model="free", code="ok")  # noqa: E731
    before, count = served.descriptors(), answered()
    clients = []
    for _ in range(4):
        client = Client(served.port)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(request("POST", "/v2/models/free/infer", body))
        clients.append(client)
    wait_for(lambda: answered() == count + 4, 4)
    wait_for(lambda: served.descriptors() <= before, 8, lambda: "connections whose answers nobody reads stay open")
    for client in clients:
        client.close()


# The log


def nothing_forges_the_log(port):
    """What could forge a line or move a terminal's cursor, in every place that a client can fill."""
    escape = "\x1b[31m"
    ask(port, "POST", "/predict/x%0aERROR%20forged%1b[31m", "[1]", ["X-Request-Id: a%0aERROR-forged"])
    for headers in ([f"X-Request-Id: {escape}"], ["X-Request-Id: x\u0085ERROR"], [f"User-Agent: {escape}"]):
        ask(port, "POST", "/predict/none", "[1]", headers)
    bodies = [
        infer(name=json.dumps("x\r\nERROR forged " + escape)),
        infer(top='"id":' + json.dumps("\r\nERROR forged" + escape) + ","),
        '{"\\r\\nERROR forged\\u001b[31m":1}',
        '{"\u2028ERROR forged\u202e":1}',
        b"[1,\x1b]",
    ]
    for body in bodies:
        ask(port, "POST", "/v2/models/echo/infer", body)
        ask(port, "POST", "/predict/echo", body)
    with Client(port) as client:
        client.send(b"GET /\x1b[31m\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n").answer()
    for fields in ([("x-request-id", "\x1b"), ("user-agent", "\x1b[31m")], [("x-request-id", "a\tb")], [("\x1b", "x")]):
        with Http2(port) as client, contextlib.suppress(Reset, Gone):
            client.ask(fields_of("GET", "/nowhere%1b", *fields))


def log_lines_stay_whole():
    for level, form in [("debug", "text"), ("trace", "text"), ("debug", "json")]:
        models = [f"{name}={MODELS[name]}" for name in ("echo", "faulty")]
        with Served(models, "--log-format", form, log=level) as served:
            nothing_forges_the_log(served.port)
            assert served.predict("faulty", PANIC, 0).code == "worker_crashed"
            served.terminate()
            assert served.exit_code(5) == 0
            log = served.log()
        bad = re.search(r"[^\n\x20-\x7e\x80-\U0010ffff]|[\x80-\x9f\u2028\u202e]", log)
        assert bad is None, f"a raw control character: {log[max(0, bad.start() - 200) : bad.end() + 20]!r}"
        odd = [line for line in log.splitlines() if not is_event(line, form)]
        assert not odd, f"lines that are no events: {odd[:3]}"


def is_event(line, form):
    if form == "text":
        return re.match(r"\d{4}-\d\d-\d\dT\S+Z +(TRACE|DEBUG|INFO|WARN|ERROR) ", line)
    try:
        return {"timestamp", "level", "message"} <= set(json.loads(line))
    except json.JSONDecodeError:
        return False


# Starting, stopping, running out


def not_ready_while_loading():
    with Served(["slow=echo:FP32[1],load_ms=1500", "echo=" + MODELS["echo"]], wait=False) as served:
        assert served.ask("GET", "/v2/health/live").status == 200
        expect(served.ask("GET", "/v2/health/ready"), 503, "not_ready", "load")
        expect(served.predict("slow", 1), 503, "not_ready", "slow")
        expect(served.ask("GET", "/v2/models/slow/ready"), 503, "not_ready", "slow")
        wait_for(lambda: served.ask("GET", "/v2/health/ready").status == 200, 5)
        assert served.predict("slow", 1).status == 200


def told_to_stop_while_loading():
    with Served(["slow=echo:FP32[1],load_ms=20000"], wait=False) as served:
        served.terminate()
        assert served.exit_code(2) == 0, served.log()


def one_broken_model_is_no_outage():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "broken.onnx"
        path.write_bytes(b"no model")
        with Served([str(path), "echo=" + MODELS["echo"]]) as served:
            assert served.ask("GET", "/v2/health/ready").status == 200
            assert served.ask("GET", "/v2/models/echo/ready").status == 200
            expect(served.ask("GET", "/v2/models/broken/ready"), 503, "failed", "broken")
            assert "broken.onnx" in served.log()
            served.terminate()
            assert served.exit_code(5) == 0


def what_was_accepted_is_answered_at_the_end():
    flags = ["--max-batch", "8"]
    with Served(["slow=echo:FP32[1],call_ms=200", "echo=" + MODELS["echo"]], *flags) as served:
        clients = [Client(served.port) for _ in range(32)]
        idle, second = Client(served.port), Http2(served.port)
        assert idle.ask("GET", "/v2").status == 200
        assert second.ask(fields_of("GET", "/v2")).status == 200
        for at, client in enumerate(clients):
            client.send(request("POST", "/predict/slow", f"[{at}]"))
        wait_for(lambda: served.metrics().sum("jitney_received_items_total", model="slow") == 32, 2)
        started = time.monotonic()
        served.terminate()
        wait_for(lambda: served.ask("GET", "/v2/health/ready").status == 503, 0.3, lambda: "still ready after SIGTERM")
        expect(served.ask("GET", "/v2/health/ready"), 503, "draining", "shutting down")
        for answer in (served.predict("echo", 1, 2, 3, 4), idle.ask("POST", "/predict/echo", GOOD)):
            expect(answer, 503, "draining", "shutting down")
            assert answer.headers.get("connection") == "close", answer.headers
        assert second.until_gone(within=2) == 0, "no GOAWAY"
        for at, client in enumerate(clients):
            answer = client.answer()
            assert answer is not None and answer.json() == {"prediction": {"output": [at]}}, answer
            client.close()
        assert served.exit_code(5) == 0, served.log()
        assert time.monotonic() - started < 4
        idle.close()
        second.sock.close()


def out_of_descriptors():
    """More connections than there are descriptors: those beyond wait, and when they have gone all is as before."""
    with Served(["echo=" + MODELS["echo"]], descriptors=96) as served:
        clients = []
        for _ in range(150):
            clients.append(connect(served.port))
        time.sleep(0.3)
        assert served.process.poll() is None
        for client in clients:
            client.close()
        started = time.monotonic()
        Health(served).answers()
        assert time.monotonic() - started < 1.5
        lines = served.log().count("cannot be accepted")
        assert lines < 40, f"{lines} lines in the log about it"


def as_many_connections_as_allowed():
    with Served(["echo=" + MODELS["echo"]], config="max_connections = 8\n") as served:
        clients = [Client(served.port) for _ in range(8)]
        for client in clients:
            assert client.ask("GET", "/v2").status == 200
        expect(served.predict("echo", 1, 2, 3, 4), 503, "overloaded", "connections")
        # Those who ask how the server is have seats of their own.
        assert served.ask("GET", "/v2/health/live").status == 200
        for client in clients:
            client.close()
        wait_for(lambda: served.predict("echo", 1, 2, 3, 4).status == 200, 1)


def silence_keeps_nobody_out():
    """Connections that say nothing, as many as there may be: whoever does say something is heard."""
    with Served(["echo=" + MODELS["echo"]], config="max_connections = 8\n") as served:
        clients = [connect(served.port) for _ in range(24)]
        for _ in range(3):
            for answer in (served.ask("GET", "/v2/health/live"), served.predict("echo", 1, 2, 3, 4)):
                assert answer.status == 200, answer
                assert answer.took_s < SOON_S, f"answered only after {answer.took_s:.1f} s"
        for client in clients:
            client.close()
    with Served(["echo=" + MODELS["echo"]], descriptors=96) as served:
        clients = [connect(served.port) for _ in range(120)]
        answer = served.ask("GET", "/v2/health/live")
        assert answer.took_s < SOON_S, f"answered only after {answer.took_s:.1f} s without descriptors"
        for client in clients:
            client.close()


def as_many_bytes_as_allowed():
    with Served(["echo=" + MODELS["echo"]], config="max_inflight_bytes = 1000000\nmax_body_bytes = 900000\n") as served:
        big = b"[" + b" " * 800_000
        with Client(served.port) as first:
            first.send(request("POST", "/predict/echo", headers=["Content-Length: 850000"]) + big)
            wait_for(lambda: served.metrics().sum("jitney_inflight_bytes") > 700_000, 2)
            expect(served.ask("POST", "/predict/echo", big), 429, "overloaded", "bytes")
            assert served.predict("echo", 1, 2, 3, 4).status == 200
        wait_for(lambda: served.metrics().sum("jitney_inflight_bytes") == 0, 2)


# Models


def check(path, *flags, env=None, limit_mib=None):
    """`jitney check` of a file: its exit code and what it said."""
    limit = f"ulimit -v {limit_mib * 1024}; " if limit_mib else ""
    command = ["bash", "-c", limit + 'exec "$0" "$@"', binary(), "check", str(path), "--engine", "onnx", *flags]
    started = time.monotonic()
    ended = subprocess.run(
        command, capture_output=True, timeout=20, cwd=ROOT, stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})}
    )
    took = time.monotonic() - started
    said = (ended.stdout + ended.stderr).decode(errors="replace")
    assert took < 5, f"{path}: it took {took:.1f} s"
    assert "panicked" not in said and "overflow" not in said, said
    return ended.returncode, said


def refused(path, words, *flags, **more):
    code, said = check(path, *flags, **more)
    assert code == 1, f"{path}: exit code {code}\n{said}"
    assert Path(path).name in said, f"the file is not named: {said}"
    assert re.search(words, said), f"expected /{words}/, got {said}"


def damaged_model_files():
    whole = (ROOT / "examples/digits/model.onnx").read_bytes()
    chance = random.Random(20)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:

        def truncated(part):
            path = Path(folder) / f"cut{part}.onnx"
            path.write_bytes(whole[: len(whole) * part // 16])
            refused(path, "ONNX|engine|model")

        def flipped(number, bit):
            path = Path(folder) / f"flip{number}.onnx"
            data = bytearray(whole)
            data[bit // 8] ^= 1 << bit % 8
            path.write_bytes(data)
            code, said = check(path)
            assert code in (0, 1), f"bit {bit}: exit code {code}\n{said}"
            assert code == 0 or path.name in said, f"bit {bit}: {said}"

        jobs = [pool.submit(truncated, part) for part in range(16)]
        # Most of the file is weights; its structure is at both ends.
        ends = [chance.randrange(8 * 2000) for _ in range(24)] + [
            8 * len(whole) - 1 - chance.randrange(8 * 500) for _ in range(8)
        ]
        jobs += [pool.submit(flipped, number, bit) for number, bit in enumerate(ends)]
        for job in jobs:
            job.result()


def hostile_model_files():
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as elsewhere:
        here, there = Path(folder), Path(elsewhere)
        (there / "secret.data").write_bytes(b"\0" * 64)
        (here / "own.data").write_bytes(b"\0" * 64)
        (here / "link.data").symlink_to(there / "secret.data")
        os.link(there / "secret.data", here / "hard.data")
        (here / "device.data").symlink_to("/dev/zero")
        os.mkfifo(here / "pipe.data")

        def write(name, data):
            (here / name).write_bytes(data)
            return here / name

        own = write("own.onnx", onnx_files.external("own.data"))
        assert check(own)[0] == 0, check(own)[1]
        outside = [
            f"../{there.name}/secret.data",
            there / "secret.data",
            "/dev/zero",
            "link.data",
            "hard.data",
            "device.data",
            "pipe.data",
            "",
        ]
        for at, location in enumerate(outside):
            refused(write(f"outside{at}.onnx", onnx_files.external(location)), "weights")
        refused(write("offset.onnx", onnx_files.external("own.data", offset=1 << 40)), "cut off")
        refused(write("length.onnx", onnx_files.external("own.data", length=1 << 50)), "cut off")
        refused(write("sum.onnx", onnx_files.external("own.data", offset=(1 << 64) - 4)), "cut off")
        refused(write("number.onnx", onnx_files.external("own.data", offset=-1)), "number")
        refused(write("huge.onnx", onnx_files.huge_constant()), "shape|impossible", limit_mib=2048)
        refused(write("nested.onnx", onnx_files.nested(10_000)), "deep")
        refused(write("empty.onnx", b""), "ONNX")
        refused(write("page.onnx", b"<html></html>"), "ONNX")
        refused(here / "missing.onnx", "No such file|not found|no file")
        os.mkfifo(here / "pipe.onnx")
        refused(here / "pipe.onnx", "file")
        (here / "device.onnx").symlink_to("/dev/zero")
        refused(here / "device.onnx", "file", limit_mib=2048)
        (here / "folder.onnx").mkdir()
        refused(here / "folder.onnx", "found none|expected")


def a_model_that_never_ends():
    with tempfile.TemporaryDirectory() as folder:
        endless = Path(folder) / "endless"
        endless.mkdir()
        (endless / "model.onnx").write_bytes(onnx_files.endless_loop())
        (endless / "model.toml").write_text("load_limit_ms = 500\n")
        refused(endless, "load_limit_ms")
        with Served([str(endless), "echo=" + MODELS["echo"]]) as served:
            assert served.ask("GET", "/v2/health/ready").status == 200
            expect(served.predict("endless", 1, 2), 503, "failed", "endless")
            served.terminate()
            assert served.exit_code(5) == 0, served.log()


def serve_says_which_model_is_broken():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cut.onnx"
        path.write_bytes((ROOT / "examples/digits/model.onnx").read_bytes()[:5000])
        command = [binary(), "serve", str(path), "--http", "127.0.0.1:0"]
        ended = subprocess.run(command, capture_output=True, timeout=5, stdin=subprocess.DEVNULL)
        assert ended.returncode == 1, ended
        assert b"cut.onnx" in ended.stderr, ended.stderr


# Chance


def mutations(served):
    """Whole requests with a few bytes changed, for some seconds: never a 500, never silence."""
    chance = random.Random(28)
    bodies = [
        GOOD.encode(),
        infer().encode(),
        b"[[1,2,3,4],[5,6,7,8]]",
        infer("[1,1]", '["a"]', '"BYTES"', top='"id":"x",').encode(),
    ]
    paths = ["/predict/echo", "/v2/models/echo/infer", "/predict/echo/batch", "/v2/models/word/infer"]
    pieces = [
        b"[",
        b"]",
        b"{",
        b"}",
        b'"',
        b",",
        b":",
        b"\\u",
        b"\0",
        b"\xff",
        b"\r\n",
        b" ",
        b"9" * 30,
        b"e",
        b"-",
        b"null",
        b"NaN",
    ]
    end, count = time.monotonic() + 4, 0
    while time.monotonic() < end:
        at = chance.randrange(len(bodies))
        body = mutated(chance, bodies[at], pieces)
        whole = request("POST", paths[at], body)
        if chance.random() < 0.3:
            head, rest = whole.split(b"\r\n\r\n", 1)
            whole = mutated(chance, head, pieces) + b"\r\n\r\n" + rest
        with Client(served.port, timeout=0.2) as client:
            client.send(whole)
            client.sock.shutdown(socket.SHUT_WR)
            try:
                answer = client.answer()
            except TimeoutError:
                raise AssertionError(f"silence after {whole!r}") from None
            if answer is not None:
                assert answer.status < 500, f"{answer.status} {answer.body} after {whole!r}"
                assert answer.status == 200 or answer.code
        count += 1
    assert count > 500, count


def mutated(chance, data, pieces):
    data = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(data) + 1)
        data[at : at + chance.randrange(3)] = chance.choice([*pieces, bytes([chance.randrange(256)])])
    return bytes(data)


def conservation(served):
    """Nothing was lost: for every model what was received has ended, one way each, and nothing is held any more."""
    wait_for(lambda: served.metrics().sum("jitney_running_items") == 0, 2)
    metrics = served.metrics()
    for model in metrics.models():
        received = metrics.sum("jitney_received_items_total", model=model)
        ended = metrics.sum("jitney_ended_items_total", model=model)
        assert received == ended, f"{model}: {received} received, {ended} ended"
        refused = metrics.sum("jitney_ended_items_total", model=model, outcome="refused")
        assert refused == metrics.sum("jitney_refused_items_total", model=model), model
        assert metrics.sum("jitney_queued_items", model=model) == 0, model
    assert metrics.sum("jitney_inflight_bytes") == 0
    for code in ("internal",):
        assert metrics.sum("jitney_requests_total", code=code) == 0, code
    unknown = [
        labels
        for name, labels, _ in metrics.samples
        if name == "jitney_requests_total" and labels["model"] not in [*MODELS, *FOLDERS, "digits", "broken", ""]
    ]
    assert not unknown, f"clients can make series: {unknown[:3]}"
    tree = served.ask("GET", "/debug/tree").body.decode()
    assert tree.count("request") <= 1 and tree.count("stream") <= 1, tree


def listening(pid):
    """The TCP addresses on which a process listens, as `ss` finds them."""
    links = (str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir())
    own = {link[8:-1] for link in links if link.startswith("socket:[")}
    rows = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()
    ]
    return sorted(row[1] for row in rows if row[3] == "0A" and row[9] in own)


def no_listener_but_those_that_are_named():
    """A02: the loopback interface alone, and one port for each address that was asked for."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        other = free.getsockname()[1]
    for flags, count in [((), 1), (("--grpc", f"127.0.0.1:{other}"), 2)]:
        with Served(["echo=" + MODELS["echo"]], *flags) as served:
            addresses = listening(served.process.pid)
            assert len(addresses) == count, addresses
            assert all(address.startswith("0100007F:") for address in addresses), addresses
            assert f"0100007F:{served.port:04X}" in addresses, addresses


def other_machines_are_not_let_in_by_accident():
    """A01: no start beyond the loopback interface without keys, unless it is said to be meant."""
    for address in ("0.0.0.0:0", "[::]:0"):
        command = [binary(), "serve", "echo=" + MODELS["echo"], "--http", address]
        ended = subprocess.run(command, capture_output=True, timeout=10, stdin=subprocess.DEVNULL)
        assert ended.returncode != 0, ended
        assert b"--keys-file" in ended.stderr, ended.stderr


ON_SERVER = [
    error_table,
    one_bad_item_costs_one_answer,
    halves_are_predicted,
    special_numbers_stay_strict_json,
    too_large_bodies,
    compression_bombs,
    raw_tensors_come_back_to_the_last_bit,
    large_bodies_are_given_back,
    unread_bodies_do_not_become_requests,
    pipelined_requests_are_answered_in_order,
    overload,
    queued_requests_of_those_who_left_never_run,
    batch_mates_of_one_who_left_are_answered,
    those_who_leave_with_half_a_request_are_counted,
    those_who_do_not_wait_for_the_end_of_an_answer,
    streams_that_are_reset_are_counted,
    deadlines_behind_a_busy_model,
    deadlines_inside_a_busy_model,
    deadlines_of_a_batch_of_items,
    http2_refusals,
    http2_malformed_requests,
    http2_broken_frames,
    rapid_resets,
    resets_behind_whole_requests,
    resets_that_the_server_is_made_to_send,
    window_updates_of_nothing,
    settings_flood,
    ping_flood,
    empty_data_flood,
    continuation_flood,
    empty_continuation_flood,
    compressed_headers,
    more_streams_than_allowed,
    closed_windows,
    unread_answers_over_http1,
    unread_pings,
    mutations,
]
ON_IMPATIENT_SERVER = [slow_heads, slow_bodies, slow_streams, idle_connections, readers_that_stall]
ALONE = [
    no_listener_but_those_that_are_named,
    other_machines_are_not_let_in_by_accident,
    log_lines_stay_whole,
    not_ready_while_loading,
    told_to_stop_while_loading,
    one_broken_model_is_no_outage,
    what_was_accepted_is_answered_at_the_end,
    out_of_descriptors,
    as_many_connections_as_allowed,
    silence_keeps_nobody_out,
    as_many_bytes_as_allowed,
    damaged_model_files,
    hostile_model_files,
    a_model_that_never_ends,
    serve_says_which_model_is_broken,
]


def table(served):
    """Every check of a server that others use too, with its name."""
    for depth in (500, 100_000, 1_000_000):
        for place, (path, body) in nested(depth).items():
            route = path.replace("echo", "{}")
            yield (
                f"{depth} brackets: {place}",
                lambda route=route, body=body: check_body(served, route, "echo", body, "."),
            )
    for name, route, model, body, words in BODIES:
        kind = {PREDICT: "predict", BATCH: "batch", INFER: "infer"}[route]
        yield f"{kind}: {name}", lambda r=route, m=model, b=body, w=words: check_body(served, r, m, b, w)
    for name, *row in RAW:
        yield f"raw: {name}", lambda row=row: check_raw(served, *row)
    for name, *row in HEADS:
        yield f"{row[0]} {row[1][:40]}: {name}", lambda row=row: check_head(served, *row)
    for name, data in SMUGGLED:
        yield f"two readings: {name}", lambda data=data: check_smuggled(served, data)
    for function in ON_SERVER:
        yield function.__name__.replace("_", " "), lambda function=function: function(served)


class Report:
    def __init__(self, words):
        self.words, self.passed, self.failed = words, 0, []

    def wants(self, name):
        return not self.words or any(word in name for word in self.words)

    def run(self, name, run, health=None):
        if not self.wants(name):
            return
        started = time.monotonic()
        try:
            if health:
                health.check_running()
            run()
            if health:
                health.check()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next check shall run
            self.failed.append(name)
            print(f"FAIL  {name}\n      {type(error).__name__}: {error}", flush=True)
            return
        self.passed += 1
        print(f"ok    {name}  {(time.monotonic() - started) * 1e3:.0f} ms", flush=True)


def main():
    started = time.monotonic()
    report = Report(sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        for name, text in FOLDERS.items():
            path = Path(folder) / name
            path.mkdir()
            (path / "model.toml").write_text(text)
        broken = Path(folder) / "broken.onnx"
        broken.write_bytes(b"this is no model")
        sources = [f"{name}={source}" for name, source in MODELS.items()]
        sources += [str(Path(folder) / name) for name in FOLDERS] + [str(broken), "examples/digits"]
        with Served(sources, config=f"max_body_bytes = {BODY_LIMIT}\n") as served:
            health = Health(served, BODY_LIMIT)
            for name, run in table(served):
                report.run(name, run, health)
            report.run("conservation", lambda: conservation(served))
    patience = "header_timeout_ms = 500\nbody_timeout_ms = 500\nidle_timeout_ms = 700\n"
    with Served([f"{name}={MODELS[name]}" for name in ("echo", "free")], config=patience) as served:
        health = Health(served, BODY_LIMIT)
        for function in ON_IMPATIENT_SERVER:
            report.run(function.__name__.replace("_", " "), lambda function=function: function(served), health)
    for function in ALONE:
        report.run(function.__name__.replace("_", " "), function)
    print(f"{report.passed} checks passed, {len(report.failed)} failed, in {time.monotonic() - started:.1f} s")
    for name in report.failed:
        print(f"failed: {name}")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
