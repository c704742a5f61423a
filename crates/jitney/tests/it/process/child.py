"""A worker that does as it is told, good or bad: the text of a run's head is a command."""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

HEADER = struct.Struct("<IBBHQQQ")
DESCRIPTOR, REGION = 1, 2
HELLO, RUN, CLOSE, CREDIT, STOP = 1, 2, 3, 4, 5
READY, FAILED, DONE, CHUNK, END = 65, 66, 67, 68, 69
# Where the streams' part of the control region begins, in a pool that gives its children one run at a time.
STREAMS_AT = 512
INLINE_MAX = 32 << 10
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

channel = socket.socket(fileno=os.dup(0))
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
descriptors: list[int] = []


def receive(count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        data, received, _, _ = socket.recv_fds(channel, count - len(parts), 4)
        descriptors.extend(received)
        if not data:
            os._exit(0)
        parts += data
    return bytes(parts)


class Regions:
    """The pool's regions, and this child's own, by slot."""

    def __init__(self) -> None:
        self.theirs: dict[int, mmap.mmap] = {}
        self.ours: dict[int, tuple[int, mmap.mmap]] = {}

    def read(self, slot: int, flags: int, size: int) -> bytes:
        if flags & DESCRIPTOR:
            descriptor = descriptors.pop(0)
            self.theirs[slot] = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
            os.close(descriptor)
        return self.theirs[slot][:size]

    def write(self, slot: int, payload: bytes) -> int | None:
        """Answers the descriptor to send, if the region is a new one."""
        if slot in self.ours and len(self.ours[slot][1]) >= len(payload):
            self.ours[slot][1][: len(payload)] = payload
            return None
        descriptor = os.memfd_create("child", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, len(payload))
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
        self.ours[slot] = (descriptor, mmap.mmap(descriptor, 0))
        self.ours[slot][1][:] = payload
        return descriptor


regions = Regions()


def reply(slot: int, run: int, meta: bytes, payload: bytes, b: int = 0) -> None:
    if len(payload) <= INLINE_MAX:
        header = HEADER.pack(len(meta) + len(payload), DONE, 0, slot, run, len(payload), b)
        channel.sendall(header + meta + payload)
        return
    descriptor = regions.write(slot, payload)
    flags = REGION | (DESCRIPTOR if descriptor is not None else 0)
    header = HEADER.pack(len(meta), DONE, flags, slot, run, len(payload), b)
    socket.send_fds(channel, [header + meta], [] if descriptor is None else [descriptor])


def part(kind: int, slot: int, run: int, payload: bytes = b"", meta: bytes = b"part") -> None:
    if len(meta) + len(payload) <= 1 << 20:
        channel.sendall(HEADER.pack(len(meta) + len(payload), kind, 0, slot, run, len(payload), 7) + meta + payload)
        return
    descriptor = Regions().write(slot, payload)
    header = HEADER.pack(len(meta), kind, REGION | DESCRIPTOR, slot, run, len(payload), 7)
    socket.send_fds(channel, [header + meta], [descriptor] if descriptor is not None else [])


def stream(command: list[str], slot: int, run: int, payload: bytes, control: mmap.mmap) -> None:
    """Answers with a stream, as the command says."""
    verb, count = command[1], int(command[2])
    cell = STREAMS_AT + 16 + 16 * slot
    if verb == "crash":
        struct.pack_into("<QQ", control, STREAMS_AT, time.monotonic_ns(), run)
        os.kill(os.getpid(), signal.SIGKILL)
    if verb == "hang":
        struct.pack_into("<QQ", control, STREAMS_AT, time.monotonic_ns(), run)
        time.sleep(600)
    struct.pack_into("<Q", control, cell + 8, run)
    for number in range(count):
        part(CHUNK, slot, run, payload, str(number).encode())
    if verb == "until-left":
        while struct.unpack_from("<Q", control, cell)[0] != run:
            time.sleep(0.001)
    if verb == "sleep":
        time.sleep(600)
    if verb == "late":
        time.sleep(0.2)
    if verb == "other-slot":
        part(CHUNK, slot + 1, run)
    if verb == "other-run":
        part(CHUNK, slot, run + 1)
    if verb == "no-such-slot":
        part(END, 65535, run, b"", b"end")
    if verb == "twice":
        part(END, slot, run, b"", b"end")
    if verb == "no-descriptor":
        channel.sendall(HEADER.pack(0, CHUNK, 3, slot, run, 1, 0))
    if verb == "no-region":
        channel.sendall(HEADER.pack(0, CHUNK, 2, slot, run, 1, 0))
    if verb == "small-region":
        descriptor = Regions().write(slot, b"x" * 100)
        socket.send_fds(channel, [HEADER.pack(0, CHUNK, 3, slot, run, 1 << 20, 0)], [descriptor or 0])
    if verb == "long":
        channel.sendall(HEADER.pack(0, CHUNK, 3, slot, run, 1 << 62, 0))
    if verb == "done":
        channel.sendall(HEADER.pack(0, DONE, 0, slot, run, 0, 0))
    if verb == "end-with-flags":
        channel.sendall(HEADER.pack(0, END, 2, slot, run, 0, 0))
    part(END, slot, run, b"", b"end")


def grandchild(*, leaves_group: bool, holds_channel: bool = False) -> int:
    code = "import time; time.sleep(600)"
    pass_fds = [channel.fileno()] if holds_channel else []
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=leaves_group, pass_fds=pass_fds)
    return process.pid


def hostile(how: str, slot: int, run: int) -> None:
    loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    pipe = os.pipe()[0]
    zero = HEADER.pack(0, DONE, 0, slot, run, 0, 0)
    table = {
        "noise": lambda: channel.sendall(b"\xff" * 4096),
        "long": lambda: channel.sendall(HEADER.pack(1 << 31, DONE, 0, slot, run, 0, 0)),
        "other-run": lambda: channel.sendall(HEADER.pack(0, DONE, 0, slot, run + 1, 0, 0)),
        "other-slot": lambda: channel.sendall(HEADER.pack(0, DONE, 0, 999, run, 0, 0)),
        "twice": lambda: channel.sendall(zero + zero),
        "no-descriptor": lambda: channel.sendall(HEADER.pack(0, DONE, 3, slot, run, 0, 0)),
        "no-region": lambda: channel.sendall(HEADER.pack(0, DONE, 2, slot, run, 1 << 60, 0)),
        "loose": lambda: socket.send_fds(channel, [HEADER.pack(0, DONE, 3, slot, run, 0, 0)], [loose]),
        "pipe": lambda: socket.send_fds(channel, [HEADER.pack(0, DONE, 3, slot, run, 0, 0)], [pipe]),
        "descriptors": lambda: socket.send_fds(channel, [b"\0"], [pipe] * 200),
        "ready": lambda: channel.sendall(HEADER.pack(0, READY, 0, 0, 0, 0, 0)),
        "hang-up": lambda: channel.shutdown(socket.SHUT_RDWR),
    }
    table[how]()
    time.sleep(600)


def run(command: list[str], slot: int, number: int, payload: bytes, control: mmap.mmap) -> tuple[bytes, bytes]:
    verb, arguments = command[0], command[1:]
    if verb == "echo":
        return b"echo", payload
    if verb == "pid":
        return str(os.getpid()).encode(), b""
    if verb == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if verb == "exit":
        os._exit(int(arguments[0]))
    if verb == "sleep":
        time.sleep(float(arguments[0]))
        return b"slept", b""
    if verb == "hang":
        time.sleep(600)
    if verb == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if verb == "note":
        with Path(arguments[0]).open("a") as file:
            file.write("begun\n")
        return b"noted", b""
    if verb == "rave":
        # It is wrong once the next run is there, and then goes on with that.
        select.select([channel], [], [], 20)
        channel.sendall(HEADER.pack(0, DONE, 0, slot, number + 1000, 0, 0))
        return b"raved", b""
    if verb == "hostile":
        hostile(arguments[0], slot, number)
    if verb == "zeros":
        return b"zeros", bytes(int(arguments[0]))
    if verb == "print":
        text, times = arguments[0].encode(), int(arguments[1])
        for _ in range(times):
            os.write(1, text.replace(b"~", b"\n"))
        return b"printed", b""
    if verb == "fork":
        return str(grandchild(leaves_group="leaves" in arguments, holds_channel="holds" in arguments)).encode(), b""
    if verb == "grow":
        globals()["ballast"] = bytearray(os.urandom(1)) * (int(arguments[0]) << 20)
        return b"grown", b""
    if verb == "left":
        until, flags = time.monotonic() + 20, b""
        while time.monotonic() < until:
            area = control[slot * 512 : slot * 512 + 512]
            # What stands there of another run says nothing of this one.
            ours = struct.unpack_from("<Q", area)[0] == number
            flags = area[8 : 8 + int(arguments[0])] if ours else bytes(int(arguments[0]))
            if sum(flags) == int(arguments[1]):
                break
            time.sleep(0.005)
        return flags, b""
    raise SystemExit(f"unknown command {command}")


def start(how: str) -> None:
    verb, _, argument = how.partition(":")
    if verb == "slow":
        time.sleep(float(argument))
    if verb == "die":
        os._exit(3)
    if verb == "die-unless" and not Path(argument).exists():
        os._exit(3)
    if verb == "fail":
        channel.sendall(HEADER.pack(len(argument), FAILED, 0, 0, 0, 0, 0) + argument.encode())
        time.sleep(600)
    if verb == "garbage":
        channel.sendall(b"\0" * 64)
        time.sleep(600)
    if verb == "hang":
        time.sleep(600)


def main() -> None:
    preamble = receive(len(os.environ.get("CHILD_PREAMBLE", "")))
    size, kind, flags, _, _, _, _ = HEADER.unpack(receive(HEADER.size))
    hello = receive(size)
    assert (kind, flags, len(descriptors)) == (HELLO, DESCRIPTOR, 1), (kind, flags, descriptors)
    control = mmap.mmap(descriptors.pop(0), 0)
    start(os.environ.get("CHILD_START", ""))
    greeting = preamble + hello
    if os.environ.get("CHILD_GREETING") == "pid":
        greeting += str(os.getpid()).encode()
    channel.sendall(HEADER.pack(len(greeting), READY, 0, 0, 0, 0, 0) + greeting)
    while True:
        size, kind, flags, slot, number, a, b = HEADER.unpack(receive(HEADER.size))
        if kind == CLOSE:
            if "CHILD_STAYS" in os.environ:
                time.sleep(600)
            os._exit(0)
        if kind in (CREDIT, STOP):
            continue
        assert kind == RUN, kind
        body = receive(size)
        if flags & REGION:
            meta, payload = body, regions.read(slot, flags, a)
        else:
            meta, payload = body[: size - a], body[size - a :]
        if meta.startswith(b"stream "):
            stream(meta.decode().split(" "), slot, number, payload, control)
            continue
        answer, back = run(meta.decode().split(" "), slot, number, payload, control)
        reply(slot, number, answer, back, b)


main()
