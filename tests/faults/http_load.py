"""Streams of OpenAI's API through the ClusterIP, one after another, as a person's program asks.

``python -m tests.faults.http_load URL JOURNAL``; SIGTERM asks for no more. Each stream is a new
connection. Such a request lives in one replica: it can only be let finish there.
"""

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Final

import httpx
from tests.faults.journal import Closed, JournalWriter, Streamed

__all__ = ["STREAMS"]

STREAMS: Final = 6
_TOKENS: Final = 80
_SECONDS: Final = 30.0


async def _stream(client: httpx.AsyncClient, url: str, journal: JournalWriter) -> None:
    began, tokens = journal.now(), 0
    body = {"model": "policy", "prompt": [7, 8, 9], "max_tokens": _TOKENS, "stream": True}
    is_refused, problem, is_done = True, "", False
    try:
        options = {"return_token_ids": True, "ignore_eos": True}
        async with client.stream("POST", url, json={**body, **options}) as response:
            if response.status_code != 200:
                problem = f"HTTP {response.status_code}: {(await response.aread())[:200]!r}"
            else:
                is_refused = False
                async for line in response.aiter_lines():
                    text = line.removeprefix("data: ")
                    is_done = is_done or text == "[DONE]"
                    if text.startswith("{"):
                        event = json.loads(text)
                        for choice in event.get("choices", ()):
                            tokens += len(choice.get("token_ids", ()))
                        if "error" in event:
                            problem = str(event["error"])
    except httpx.HTTPError as error:
        problem = repr(error)
    if not problem and not (is_done and tokens == _TOKENS):
        problem = f"it ended after {tokens} tokens of {_TOKENS}"
    journal.write(Streamed(began, journal.now(), tokens, problem, is_refused))


async def _run(url: str, journal: JournalWriter) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    # No connection is used twice: each may meet another replica.
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=_SECONDS, limits=limits, trust_env=False) as client:

        async def again_and_again() -> None:
            while not stop.is_set():
                await _stream(client, url, journal)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(STREAMS):
                tasks.create_task(again_and_again())
    journal.write(Closed(journal.now()))


def main() -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.http_load", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("journal", type=Path)
    words = parser.parse_args()
    asyncio.run(_run(words.url, JournalWriter(words.journal)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
