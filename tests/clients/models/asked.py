"""A model that says what it was asked with."""

import json


class Asked:
    """Any JSON value in; out come the id and the parameters of the request."""

    inputs = {"input": "BYTES[1]"}
    outputs = {"asked": "BYTES[1]"}

    def predict(self, item, context):
        told = {"id": context.id, "parameters": dict(context.parameters or {})}
        return [json.dumps(told, sort_keys=True).encode()]
