"""vLLM's ``AsyncLLM`` as a program that loads it would use it: the baseline of ``vllm_path.py``.

A process of its own, in which nothing of this repository is imported. It says on stdout what vLLM
found, takes engine arguments from stdin, and then one round a line; all lines are JSON. A round is
one task a sequence, each asked for token ids and logprobs and nothing else.
"""

import asyncio
import gc
import json
import os
import sys
import time
from typing import Any

OURS = ("sampler_api", "sampler_client", "sampler_core", "sampler_server", "sampler_cli", "bench")


def say(**values: Any) -> None:
    """One line for the program that has started this one."""
    print("@" + json.dumps(values), flush=True)


def hear() -> Any:
    """Its next line; ``None`` when it has gone."""
    line = sys.stdin.readline()
    return json.loads(line) if line else None


async def one(engine: Any, ids: list[int], name: str, length: int, kind: str) -> int:
    """Tokens of a sequence, counted where they are delivered."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    flat = {"flat_logprobs": True} if "flat_logprobs" in SamplingParams.__struct_fields__ else {}
    params = SamplingParams(
        max_tokens=length,
        temperature=1.0,
        logprobs=0,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind[kind],
        **flat,
    )
    made = scored = 0
    async for output in engine.generate({"prompt_token_ids": ids}, params, name):
        completion = output.outputs[0]
        made += len(completion.token_ids)
        scored += len(completion.logprobs)
    if scored != made:
        raise SystemExit(f"{scored} logprobs came with {made} tokens")
    return made


async def rounds(engine: Any) -> None:
    """Do what the lines on stdin say."""
    count = 0
    prompts: list[list[int]] = []
    while (wanted := await asyncio.to_thread(hear)) is not None:
        prompts = wanted.get("prompts", prompts)
        length, kind = wanted["length"], wanted["kind"]
        count += 1
        begun = time.perf_counter()
        made = await asyncio.gather(
            *(one(engine, ids, f"{count}-{i}", length, kind) for i, ids in enumerate(prompts))
        )
        seconds = time.perf_counter() - begun
        say(tokens=sum(made), seconds=seconds)


def main() -> None:
    """Until stdin ends."""
    import torch
    from vllm import __version__
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    is_cpu = current_platform.is_cpu()
    card = "" if is_cpu else current_platform.get_device_name()
    say(is_cpu=is_cpu, card=card, vllm=__version__, torch=torch.__version__)
    wanted = hear()
    if wanted is None:
        return
    os.environ.update(wanted["environment"])

    async def run() -> None:
        engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**wanted["arguments"]))
        try:
            if wanted["is_frozen"]:
                gc.collect()
                gc.freeze()
            say(ready=True)
            await rounds(engine)
        finally:
            engine.shutdown()

    asyncio.run(run())
    guests = sorted({name for name in OURS if name in sys.modules})
    say(guests=guests)


if __name__ == "__main__":
    main()
