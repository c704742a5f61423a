"""The server's side of a worker, in Python: starts one on a class, and speaks frames to it."""

import fcntl
import json
import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
from array import array
from pathlib import Path

WORKER = Path(__file__).resolve().parents[2] / "src/python/worker.py"
BOOT = (WORKER.parent / "boot.py").read_text()
HEADER = struct.Struct("<IBBHQQQ")
HELLO, RUN, CLOSE, CREDIT, STOP = 1, 2, 3, 4, 5
READY, FAILED, DONE, CHUNK, END = 65, 66, 67, 68, 69
DESCRIPTOR, REGION = 1, 2
TIMEOUT_S = 30
# Where the streams' part of the control region begins.
STREAMS_AT = 1024


class Worker:
    """A worker process that serves `Model` of the given source."""

    def __init__(self, source, name="model.py", cls="Model", env=None, stdout=subprocess.PIPE, **hello):
        self.folder = tempfile.TemporaryDirectory()
        self.path = str(Path(self.folder.name).resolve() / name)
        if source is not None:
            Path(self.path).write_text(textwrap.dedent(source), encoding="utf-8")
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(TIMEOUT_S)
        self.process = subprocess.Popen(
            [sys.executable, "-c", BOOT],
            stdin=theirs,
            stdout=stdout,
            stderr=stdout,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        theirs.close()
        self.control = Region(4096)
        self.regions, self.theirs, self.last = {}, {}, 0
        self.held = None
        code = WORKER.read_bytes()
        self.socket.sendall(len(code).to_bytes(4, "little") + code)
        body = {
            "protocol": 1,
            "file": self.path,
            "class": cls,
            "name": "model",
            "max_concurrency": None,
            "memory": None,
            "max_batch": 32,
            "payload_max": 512 << 20,
            "streams_at": STREAMS_AT,
        }
        self.send(HELLO, json.dumps({**body, **hello}).encode(), descriptor=self.control.descriptor)
        self.kind, self.greeting = None, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        if self.process.poll() is None:
            self.process.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()
        if self.process.stderr is not None:
            self.process.stderr.close()
        self.process.wait()
        self.folder.cleanup()

    def ready(self):
        frame = self.receive()
        assert frame is not None, self.output()
        self.greeting = json.loads(frame.meta)
        assert frame.kind == READY, self.greeting
        return self

    def failed(self):
        frame = self.receive()
        assert frame is not None and frame.kind == FAILED, frame and frame.meta
        return json.loads(frame.meta)

    def output(self):
        """All that the worker printed, once it is gone."""
        return self.process.communicate(timeout=TIMEOUT_S)

    # Runs

    def run_json(self, items, counts=None, **context):
        return self.answer_json(self.start_json(items, counts, **context))

    def start_json(self, items, counts=None, contexts=None, slot=0, deadline=0):
        payload = items if isinstance(items, bytes) else json.dumps(items).encode()
        counts = counts or [1] * len(items)
        return self.start(counts, b"", [payload], contexts, slot, deadline)

    def answer_json(self, id):
        frame = self.receive_done(id)
        if frame.meta[0] == 1:
            return json.loads(frame.meta[5:])
        errors = json.loads(frame.meta[5:]) if frame.meta[0] == 2 else []
        return json.loads(frame.payload), errors

    def run_arrays(self, arrays, counts=None, contexts=None, slot=0):
        heads, payload = b"", []
        for value in arrays:
            data = elements(value) if value.dtype == object else value.tobytes()
            heads += struct.pack(f"<B{value.ndim - 1}IQ", value.ndim - 1, *value.shape[1:], len(data))
            payload += [data, bytes(-len(data) % 64)]
        return self.answer_arrays(self.start(counts or [1] * len(arrays[0]), heads, payload, contexts, slot, 0))

    def answer_arrays(self, id):
        """A list of arrays, and the errors; or the one error of the whole run."""
        import numpy

        frame = self.receive_done(id)
        status, outputs = frame.meta[:2]
        at, start, values = 2, 0, []
        for spec in list(self.greeting["outputs"].values())[:outputs]:
            ndim = frame.meta[at]
            *dims, size = struct.unpack_from(f"<{ndim}IQ", frame.meta, at + 1)
            at += 1 + 4 * ndim + 8
            data = frame.payload[start : start + size]
            start += size + -size % 64
            if spec.startswith("BYTES"):
                values.append(split_elements(data))
            else:
                values.append(numpy.frombuffer(data, DTYPES[spec.split("[")[0]]).reshape([-1, *dims]))
        errors = json.loads(frame.meta[at + 4 :]) if status else []
        return errors if status == 1 else (values, errors)

    def start(self, counts, heads, payload, contexts, slot, deadline):
        self.last += 1
        meta = struct.pack(f"<III{len(counts)}I", int(contexts is not None), len(counts), sum(counts), *counts) + heads
        if contexts is not None:
            text = json.dumps(contexts).encode()
            meta += len(text).to_bytes(4, "little") + text
        self.send(RUN, meta, payload, slot, self.last, b=deadline)
        return self.last

    def leave(self, id, requests, slot=0):
        """Notes that nobody waits for these requests of the run any more."""
        block = bytearray(512)
        block[:8] = id.to_bytes(8, "little")
        for request in requests:
            block[8 + request] = 1
        os.pwrite(self.control.descriptor, block, slot * 512)

    # Streams, each in the slot of its number

    def open(self, item, limit=30.0, heads=b"", payload=None, contexts=None, deadline=0):
        self.last += 1
        meta = struct.pack("<QIIII", int(limit * 1e6), int(contexts is not None), 1, 1, 1) + heads
        if contexts is not None:
            text = json.dumps(contexts).encode()
            meta += len(text).to_bytes(4, "little") + text
        payload = [json.dumps([item]).encode()] if payload is None else payload
        self.send(RUN, meta, payload, self.last, self.last, b=deadline)
        return self.last

    def credit(self, id, credit):
        self.send(CREDIT, slot=id, id=id, a=credit)

    def stop(self, id):
        self.send(STOP, slot=id, id=id)

    def take(self, id, count):
        """The next results of a stream, which must be the next things that come."""
        return [self.result(id) for _ in range(count)]

    def result(self, id):
        frame = self.receive()
        assert frame is not None and (frame.kind, frame.id) == (CHUNK, id), frame and (frame.kind, frame.id, frame.meta)
        assert frame.meta == b"\0", frame.meta
        (value,) = json.loads(frame.payload)
        return value

    def end(self, id):
        """Why a stream ended; None where all is well."""
        frame = self.receive()
        assert frame is not None and (frame.kind, frame.id) == (END, id), frame and (frame.kind, frame.id, frame.meta)
        return json.loads(frame.meta[5:]) if frame.meta else None

    def all(self, id):
        """All results of a stream beside which there is no other, and why it ended."""
        results = []
        while True:
            frame = self.receive()
            assert frame is not None and frame.id == id
            if frame.kind == END:
                return results, json.loads(frame.meta[5:]) if frame.meta else None
            results += json.loads(frame.payload)
            if len(results) % 8 == 0:
                self.credit(id, 8)

    def stepped(self):
        """The stream that the worker says to be at work on, or 0."""
        return struct.unpack("<Q", os.pread(self.control.descriptor, 8, STREAMS_AT + 8))[0]

    def begun(self, id):
        return struct.unpack("<Q", os.pread(self.control.descriptor, 8, STREAMS_AT + 16 + id * 16 + 8))[0] == id

    def leave_stream(self, id):
        """Notes that the reader of a stream has left."""
        os.pwrite(self.control.descriptor, id.to_bytes(8, "little"), STREAMS_AT + 16 + id * 16)

    def hold(self):
        """Keeps what is sent until it is let go as one."""
        self.held = b""

    def let_go(self):
        held, self.held = self.held, None
        self.socket.sendall(held)

    def close(self):
        self.send(CLOSE)

    # Frames

    def send(self, kind, meta=b"", payload=(), slot=0, id=0, b=0, descriptor=None, a=None):
        size = sum(map(len, payload))
        flags = 0 if descriptor is None else DESCRIPTOR
        length = len(meta) + size
        if size > 32 << 10:
            flags, length = flags | REGION, len(meta)
            region = self.regions.get(slot)
            if region is None or region.size < size:
                region = self.regions[slot] = Region(size)
                flags, descriptor = flags | DESCRIPTOR, region.descriptor
            os.pwrite(region.descriptor, b"".join(payload), 0)
            payload = ()
        data = b"".join([HEADER.pack(length, kind, flags, slot, id, size if a is None else a, b), meta, *payload])
        if self.held is not None:
            self.held += data
            return
        ancillary = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [descriptor]))]
        sent = self.socket.sendmsg([data], ancillary)
        # A worker that has it all may be gone already: sending it nothing more would be an error.
        if sent < len(data):
            self.socket.sendall(data[sent:])

    def receive(self):
        """The next frame, or None where the worker is gone."""
        try:
            header, ancillary, _, _ = self.socket.recvmsg(HEADER.size, socket.CMSG_SPACE(4))
        except ConnectionResetError:
            return None
        if not header:
            return None
        header += self.exactly(HEADER.size - len(header))
        length, kind, flags, slot, id, a, _ = HEADER.unpack(header)
        body = self.exactly(length)
        if ancillary:
            descriptor = int.from_bytes(ancillary[0][2], sys.byteorder)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) == seals
            self.theirs[slot] = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
            os.close(descriptor)
        if flags & REGION:
            return Frame(kind, id, body, bytes(self.theirs[slot][:a]))
        return Frame(kind, id, body[: length - a], body[length - a :])

    def receive_done(self, id):
        frame = self.receive()
        assert frame is not None, self.output()
        assert (frame.kind, frame.id) == (DONE, id), (frame.kind, frame.id)
        return frame

    def exactly(self, length):
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            assert more, "the worker left in the middle of a frame"
            data += more
        return data


class Region:
    def __init__(self, size):
        self.size = size
        self.descriptor = os.memfd_create("test")
        os.ftruncate(self.descriptor, size)

    def __del__(self):
        os.close(self.descriptor)


class Frame:
    def __init__(self, kind, id, meta, payload):
        self.kind = kind
        self.id = id
        self.meta = meta
        self.payload = payload


DTYPES = {"FP32": "<f4", "FP64": "<f8", "FP16": "<f2", "INT64": "<i8", "INT32": "<i4", "UINT8": "u1", "BOOL": "?"}


def elements(values):
    return b"".join(len(value).to_bytes(4, "little") + value for value in values.flat)


def split_elements(data):
    found, at = [], 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        found.append(data[at + 4 : end])
        at = end
    return found
