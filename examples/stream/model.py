"""Says a text again, word by word, as a language model does: each word goes out as soon as it is there."""

import asyncio


class Words:
    max_concurrency = 100

    async def stream(self, item):
        words = item["text_input"].split()
        for word in words:
            await asyncio.sleep(item.get("pause", 0.05))
            yield word
