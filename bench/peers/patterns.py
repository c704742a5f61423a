"""The asyncio forms of what the library does, as they are usually written.

python patterns.py gather 100000 1000                     coroutines a second, 1000 at once
python patterns.py fetch http://127.0.0.1:8000 10000 100  requests a second by httpx, 100 at once
"""

import asyncio
import sys
import time


async def number(value):
    return value


async def gather(count, at_once):
    semaphore = asyncio.Semaphore(at_once)

    async def bounded(value):
        async with semaphore:
            return await number(value)

    results = await asyncio.gather(*[bounded(value) for value in range(count)])
    assert results == list(range(count))
    return count


async def fetch(base, count, at_once):
    import httpx

    semaphore = asyncio.Semaphore(at_once)

    async def bounded(client, url):
        async with semaphore:
            response = await client.get(url)
            return response.content

    async with httpx.AsyncClient() as client:
        bodies = await asyncio.gather(*[bounded(client, f"{base}/{at}") for at in range(count)])
    assert all(bodies)
    return count


def main(what, *arguments):
    started = time.perf_counter()
    if what == "gather":
        done = asyncio.run(gather(*map(int, arguments)))
    else:
        base, count, at_once = arguments
        done = asyncio.run(fetch(base, int(count), int(at_once)))
    print(done / (time.perf_counter() - started))


if __name__ == "__main__":
    main(*sys.argv[1:])
