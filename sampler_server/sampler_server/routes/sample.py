"""POST /v1/sample: the sampler's call as plain JSON, for tools that do not speak sessions.

The request::

    {"inputs": [{"input_ids": [1, 2]}, {"messages": [{"role": "user", "content": "Hi"}]}],
     "sampling_params": {"max_tokens": 16, "temperature": 0.7, "logprobs": 1},
     "adapter": {"digest": "sha256:…", "name": "policy", "path": "/adapters/step-7"},
     "base": "sha256:…",
     "n": 2}

Only ``inputs`` is needed; one input may stand there without the list. ``base`` refuses other
weights than the ones named. The answer has one entry per input, in order::

    {"model": "…", "responses": [
       {"sequences": [{"tokens": […], "logprobs": [[[token, logprob], …], …] or null,
                       "text": "…" or null, "stop_reason": "stop" or "length" or "error",
                       "stop_matched": text or id or null}],
        "revision": {"base": "sha256:…", "adapter": "sha256:…" or null},
        "prompt_token_ids": […], "prompt_logprobs": […] or null,
        "topk_prompt_logprobs": […] or null,
        "usage": {"prompt_tokens": 3, "completion_tokens": 32}},
       {"error": {"code": "…", "message": "…", "field": "…", "retryable": false}}]}

An input that is wrong gets an ``error`` entry and leaves the others alone; a sequence that failed
has ``stop_reason`` "error" and its ``error``. What is wrong with the whole call is the answer's
status.
"""

from typing import Any

import msgspec
import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from sampler_api.errors import Draining, EngineFailed, InvalidRequest, SamplerError
from sampler_api.frames import ERROR, REASON_OF_FLAG, RevisionRef
from sampler_api.names import SAMPLE_PATH
from sampler_core.inputs import (
    check_supported,
    is_encoded,
    normalise_inputs,
    prompt_ids,
    resolve_num_samples,
)

from ..engines.base import PromptScores
from ..errors import error_body
from ..hub import Hub
from .bodies import check_fields, integer, json_object, sampling_params, text
from .connection import until_gone
from .jobs import MAX_SEQUENCES, Child, Done, Job, check_number, collect, seeds_of
from .named_weights import adapter_ref
from .templates import ServedTemplate

__all__ = ["router"]

_FIELDS = ("inputs", "sampling_params", "adapter", "base", "n")
_INPUT_FIELDS = ("input_ids", "messages", "tools", "prompt")

router = APIRouter()


@router.post(SAMPLE_PATH)
async def sample(request: Request) -> Response:
    """Sample the inputs of one call."""
    state = request.app.state
    state.access.check(request.headers, "sample")
    body = await json_object(request)
    answer = await until_gone(request, _answer(state.hub, ServedTemplate.of(state), body))
    return Response(msgspec.json.encode(answer), media_type="application/json")


async def _answer(hub: Hub, template: ServedTemplate, body: dict[str, Any]) -> dict[str, Any]:
    if hub.is_refusing:
        raise Draining("the replica is draining; ask another one")
    check_fields(body, _FIELDS)
    if "inputs" not in body:
        raise InvalidRequest("inputs: missing; give a list of inputs", "inputs")
    inputs = normalise_inputs(body["inputs"])
    values = body.get("sampling_params") or {}
    if not isinstance(values, dict):
        raise InvalidRequest("sampling_params: must be an object", "sampling_params")
    params = sampling_params(values)
    number = resolve_num_samples(params, integer(body, "n", 1, MAX_SEQUENCES) or 1)
    check_number(len(inputs), number)
    ref = _revision(hub, body)
    # What is wrong with the params is wrong with the call, not with its inputs.
    hub.planner.of(params)
    entries: list[dict[str, Any] | Job] = []
    for i, item in enumerate(inputs):
        try:
            prompt = await _prompt(hub, template, item, params.max_tokens == 0)
            entries.append(Job(prompt, params, seeds_of(params.seed, i, number), ref))
        except SamplerError as error:
            entries.append(_told(error))
    jobs = [entry for entry in entries if isinstance(entry, Job)]
    results = iter(await collect(hub, jobs))
    responses: list[dict[str, Any]] = []
    for entry in entries:
        if not isinstance(entry, Job):
            responses.append(entry)
            continue
        result = next(results)
        if isinstance(result, SamplerError):
            responses.append(_told(result))
        else:
            responses.append(_response(hub, entry, result))
    return {"model": hub.card.model, "responses": responses}


def _revision(hub: Hub, body: dict[str, Any]) -> RevisionRef:
    ref = adapter_ref(text(body, "base") or hub.card.base, body.get("adapter"))
    hub.check_ref(ref)
    return ref


async def _prompt(
    hub: Hub, template: ServedTemplate, item: dict[str, Any], is_scored: bool
) -> NDArray[np.int32]:
    check_supported(item)
    check_fields(item, _INPUT_FIELDS)
    if is_encoded(item):
        return prompt_ids(item, hub.card.vocab_size, hub.card.context_limit)
    return await template.prompt_ids(item, is_scored=is_scored)


def _response(hub: Hub, job: Job, done: Done) -> dict[str, Any]:
    sequences = [_sequence(hub, child) for child in done.children]
    scores = _scores(done.scores) if done.scores is not None else (None, None)
    return {
        "sequences": sequences,
        "revision": {"base": job.ref.base, "adapter": job.ref.adapter},
        "prompt_token_ids": job.prompt.tolist(),
        "prompt_logprobs": scores[0],
        "topk_prompt_logprobs": scores[1],
        "usage": {
            "prompt_tokens": len(job.prompt),
            "completion_tokens": sum(len(child.columns) for child in done.children),
        },
    }


def _sequence(hub: Hub, child: Child) -> dict[str, Any]:
    tokens = child.columns.token_ids.tolist()
    error = child.error
    reason: str = REASON_OF_FLAG.get(child.flag, "error")
    try:
        rows = child.columns.rows()
    except ValueError:
        rows, reason = None, "error"
        error = EngineFailed("logprobs: the engine left some out")
    found = {
        "tokens": tokens,
        "logprobs": None if rows is None else rows.tolist(),
        "text": None if hub.tokenizer is None else hub.tokenizer.decode(tokens),
        "stop_reason": reason,
        "stop_matched": child.matched,
    }
    if error is not None or child.flag == ERROR:
        found |= _told(error or EngineFailed("the engine failed on this sequence"))
    return found


def _told(error: SamplerError) -> dict[str, Any]:
    """An error in the words of this route: what samplers call adapter_path is adapter.path here."""
    body = error_body(error)
    if error.field == "adapter_path":
        body["error"]["field"] = "adapter.path"
    return body


def _scores(scores: PromptScores) -> tuple[list[float | None], list[Any] | None]:
    values: list[float | None] = np.frombuffer(scores.logprobs, np.float32).tolist()
    values[0] = None
    if not scores.k:
        return values, None
    shape = (len(values), scores.k)
    ids = np.frombuffer(scores.top_ids, np.int32).reshape(shape).tolist()
    logprobs = np.frombuffer(scores.top_logprobs, np.float32).reshape(shape).tolist()
    rows: list[Any] = [list(zip(*row, strict=True)) for row in zip(ids, logprobs, strict=True)]
    rows[0] = None
    return values, rows
