"""A client of gRPC on bare HTTP/2 (hyper-h2), which sends what it is told to."""

import socket
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events

PATIENCE_S = 20.0


@dataclass
class GrpcAnswer:
    http_status: str = ""
    status: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    reset: int | None = None
    ended: bool = False


class Grpc:
    """One connection with any number of calls on it."""

    def __init__(self, port, content_type="application/grpc"):
        self.content_type = content_type
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
        self.connection = h2.connection.H2Connection(config)
        self.connection.initiate_connection()
        self.answers: dict[int, GrpcAnswer] = {}
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def flush(self):
        self.sock.sendall(self.connection.data_to_send())

    def begin(self, path, data, headers=()):
        """Sends a whole call; the id of its stream."""
        stream = self.connection.get_next_available_stream_id()
        self.answers[stream] = GrpcAnswer()
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("te", "trailers"),
        ]
        self.connection.send_headers(stream, [*fields, ("content-type", self.content_type), *headers])
        while data and not self.answers[stream].ended:
            size = min(self.connection.local_flow_control_window(stream), self.connection.max_outbound_frame_size)
            if size:
                self.connection.send_data(stream, data[:size])
                data = data[size:]
                self.flush()
            else:
                self.read()
        if not self.answers[stream].ended:
            self.connection.end_stream(stream)
        self.flush()
        return stream

    def answer(self, stream):
        while not self.answers[stream].ended:
            self.read()
        return self.answers[stream]

    def read(self):
        data = self.sock.recv(1 << 16)
        assert data, "the server closed the connection"
        for event in self.connection.receive_data(data):
            self.take(event)
        self.flush()

    def take(self, event):
        answer = self.answers.get(getattr(event, "stream_id", None) or 0, GrpcAnswer())
        if isinstance(event, h2.events.ResponseReceived):
            answer.headers = dict(event.headers or ())
            answer.http_status = answer.headers.get(":status", "")
            answer.status = answer.headers.get("grpc-status", answer.status)
        elif isinstance(event, h2.events.TrailersReceived):
            answer.trailers = dict(event.headers or ())
            answer.status = answer.trailers.get("grpc-status", answer.status)
        elif isinstance(event, h2.events.DataReceived):
            answer.body += event.data or b""
            self.connection.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
        elif isinstance(event, h2.events.StreamReset):
            answer.reset, answer.ended = int(event.error_code or 0), True
        elif isinstance(event, h2.events.StreamEnded):
            answer.ended = True
        elif isinstance(event, h2.events.ConnectionTerminated):
            raise AssertionError(f"the server ended the connection with {event.error_code}")
