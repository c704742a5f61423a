"""A FastAPI service with a hand-made batcher, as many have one.

uvicorn before:app --app-dir examples/from_fastapi --port 8000
"""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI
from flowers import load_model


@dataclass
class InferenceRequest:
    input: dict
    future: asyncio.Future = field(default_factory=lambda: asyncio.get_event_loop().create_future())


class AsyncBatchPredictor:
    """Collects requests, batches them, runs inference on batch."""

    def __init__(self, model, max_batch: int = 32, max_wait_ms: float = 5):
        self.model = model
        self.max_batch = max_batch
        self.max_wait = max_wait_ms / 1000
        self._queue: asyncio.Queue[InferenceRequest] = asyncio.Queue()

    async def start(self):
        """Start the background batch processing loop."""
        self._loop = asyncio.create_task(self._batch_loop())

    async def predict(self, input_data: dict) -> dict:
        """Called per-request. Returns when batch containing this request completes."""
        req = InferenceRequest(input=input_data)
        await self._queue.put(req)
        return await req.future

    async def _batch_loop(self):
        while True:
            batch: list[InferenceRequest] = []

            # Wait for first request
            req = await self._queue.get()
            batch.append(req)

            # Collect more for up to max_wait
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

            # Run batched inference
            try:
                inputs = [r.input for r in batch]
                results = self.model.predict_batch(inputs)
                for req, result in zip(batch, results):
                    req.future.set_result(result)
            except Exception as exc:
                for req in batch:
                    if not req.future.done():
                        req.future.set_exception(exc)


class Model:
    def __init__(self):
        self.model = load_model()

    def predict_batch(self, inputs: list[dict]) -> list[dict]:
        result = self.model.predict([input_data["features"] for input_data in inputs])
        return [{"prediction": prediction} for prediction in result.tolist()]


@asynccontextmanager
async def lifespan(app: FastAPI):
    app.state.predictor = AsyncBatchPredictor(Model())
    await app.state.predictor.start()
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
async def predict(input_data: dict) -> dict:
    return await app.state.predictor.predict(input_data)
