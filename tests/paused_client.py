"""A client process that is paused while it samples; run as a script with its arguments as JSON.

It prints ``started`` when tokens flow, then one JSON object: why each segment ended, and seconds.
"""

import ctypes
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from sampler_client import RemoteSampler, SamplingParams

__all__: list[str] = []


def hold_the_gil(seconds: float) -> None:
    """Sleep in C without letting any other thread run Python."""
    # PyDLL calls with the GIL held, unlike CDLL.
    libc = ctypes.PyDLL(None)
    libc.poll(None, 0, int(seconds * 1000))


def _main(
    url: str, settings: dict[str, Any], long_tokens: int, sequences: int, gil_seconds: float
) -> dict[str, Any]:
    with RemoteSampler(url, **settings) as sampler:

        def inputs() -> Iterator[dict[str, Any]]:
            yield {"input_ids": [1]}
            for i in range(sequences):
                yield {"input_ids": [2, i]}

        # The first and short one shows that the engine is at work on the others.
        params = SamplingParams(max_tokens=long_tokens, seed=1, logprobs=1)
        short = SamplingParams(max_tokens=4)
        with sampler.sample_stream(inputs(), params) as stream:
            stream._pump()
            sampler.sample({"input_ids": [3]}, short)
            begin = time.monotonic()
            print("started", flush=True)
            if gil_seconds:
                hold_the_gil(gil_seconds)
            found = [s for _, response in stream for s in response.sequences]
        return {
            "ended": [[segment.ended for segment in s.segments] for s in found],
            "lengths": [len(s.tokens) for s in found],
            "seconds": time.monotonic() - begin,
        }


if __name__ == "__main__":
    print(json.dumps(_main(**json.loads(sys.argv[1]))), flush=True)
