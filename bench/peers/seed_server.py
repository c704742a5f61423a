"""A model behind FastAPI and a hand-made batcher, batches of up to 32 within 5 ms.

BENCH_MODEL=noop uvicorn seed_server:app

The model runs on the event loop, as in the code that people start from; with BENCH_WORKERS=N in a pool of N processes.
"""

import asyncio
import functools
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import models
from fastapi import FastAPI


@dataclass
class InferenceRequest:
    input: dict
    future: asyncio.Future = field(default_factory=lambda: asyncio.get_event_loop().create_future())


class AsyncBatchPredictor:
    """Collects requests, batches them, runs inference on batch."""

    def __init__(self, infer, max_batch: int = 32, max_wait_ms: float = 5):
        self.infer = infer
        self.max_batch = max_batch
        self.max_wait = max_wait_ms / 1000
        self._queue: asyncio.Queue[InferenceRequest] = asyncio.Queue()

    async def start(self):
        self._loop = asyncio.create_task(self._batch_loop())

    async def predict(self, input_data: dict) -> dict:
        req = InferenceRequest(input=input_data)
        await self._queue.put(req)
        return await req.future

    async def _batch_loop(self):
        while True:
            batch: list[InferenceRequest] = []
            req = await self._queue.get()
            batch.append(req)
            deadline = asyncio.get_event_loop().time() + self.max_wait
            while len(batch) < self.max_batch:
                remaining = deadline - asyncio.get_event_loop().time()
                if remaining <= 0:
                    break
                try:
                    req = await asyncio.wait_for(self._queue.get(), timeout=remaining)
                    batch.append(req)
                except TimeoutError:
                    break
            try:
                inputs = [r.input for r in batch]
                results = await self.infer(inputs)
                for req, result in zip(batch, results):
                    req.future.set_result(result)
            except Exception as exc:
                for req in batch:
                    if not req.future.done():
                        req.future.set_exception(exc)


@functools.cache
def get_cached_model():
    return models.MODELS[os.environ["BENCH_MODEL"]]()


def predict_batch(inputs: list[dict]) -> list[dict]:
    results = get_cached_model().predict_batch([input_data["features"] for input_data in inputs])
    return [{"prediction": result} for result in results]


async def on_the_loop(inputs):
    return predict_batch(inputs)


def in_processes(workers):
    pool = ProcessPoolExecutor(workers)

    async def infer(inputs):
        return await asyncio.get_running_loop().run_in_executor(pool, predict_batch, inputs)

    return infer


@asynccontextmanager
async def lifespan(app: FastAPI):
    workers = int(os.environ.get("BENCH_WORKERS", "0"))
    app.state.predictor = AsyncBatchPredictor(in_processes(workers) if workers else on_the_loop)
    await app.state.predictor.start()
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
async def predict(input_data: dict) -> dict:
    return await app.state.predictor.predict(input_data)
