def boot():
    import os
    import sys

    if sys.version_info < (3, 9):
        text = (
            '{"error": "expected CPython 3.9 or newer, got %d.%d.%d", "where": null, "traceback": null}'
            % sys.version_info[:3]
        )
        import struct

        os.write(0, struct.pack("<IBBHQQQ", len(text), 66, 0, 0, 0, 0, 0) + text.encode())
        sys.exit(1)

    def read(length):
        data = b""
        while len(data) < length:
            more = os.read(0, length - len(data))
            if not more:
                os._exit(0)
            data += more
        return data

    source = read(int.from_bytes(read(4), "little"))
    exec(compile(source, "jitney/worker.py", "exec"), {"__name__": "jitney_worker"})


boot()
