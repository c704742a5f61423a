"""A model behind mosec, batches of up to 32 within 5 ms.

BENCH_MODEL=noop python mosec_server.py --port 8000 --address 127.0.0.1
"""

import os

import models
from mosec import Server, Worker


class Predict(Worker):
    def __init__(self):
        super().__init__()
        self.model = models.MODELS[os.environ["BENCH_MODEL"]]()

    def forward(self, data):
        return [{"prediction": result} for result in self.model.predict_batch([item["features"] for item in data])]


if __name__ == "__main__":
    server = Server()
    workers = int(os.environ.get("BENCH_WORKERS", "1"))
    server.append_worker(Predict, num=workers, max_batch_size=32, max_wait_time=5, route="/predict")
    server.run()
