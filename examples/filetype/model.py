"""What kind of file is this? Magika's neural network knows more than two hundred kinds by their content.

    jitney serve filetype=examples/filetype/model.py:FileType

An item is `{"content": "the file's bytes in base64"}`. Magika looks at the first and the last 4096 bytes and at nothing between, so a
client that sends only those gets the same answer.
"""

import base64

from magika import Magika


class FileType:
    warmup = [{"content": base64.b64encode(b"#!/bin/sh\necho warm\n").decode()}]

    def __init__(self):
        self.magika = Magika()

    # One at a time, because this network costs as much by the batch, and a file that is refused then costs nobody else a second run.
    def predict(self, item):
        content = base64.b64decode(item["content"], validate=True)
        prediction = self.magika.identify_bytes(content).prediction
        kind = prediction.output
        return {
            "type": str(kind.label),
            "mime": kind.mime_type,
            "description": kind.description,
            "score": round(prediction.score, 4),
        }
