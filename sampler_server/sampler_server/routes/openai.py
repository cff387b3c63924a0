"""POST /v1/completions and /v1/chat/completions, as OpenAI clients expect them.

``model`` is the base's name, the name of a declared adapter, or ``name@sha256:…`` of a held one;
anything else is refused.
Prompts may be token ids. Besides OpenAI's fields: top_k, min_p, repetition_penalty, min_tokens,
ignore_eos, stop_token_ids, bad_words, and ``return_token_ids``, which adds ``token_ids`` to each
choice. Text leaves out special tokens and the stop string; ``token_ids`` and logprobs have all.
"""

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from fastapi import APIRouter
from fastapi.routing import APIRoute
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from sampler_api.columns import Columns
from sampler_api.errors import Draining, EngineFailed, InvalidRequest, SamplerError
from sampler_api.frames import ABORT, ERROR, RUNNING

from ..errors import error_response
from ..hub import Hub
from ..runs import Piece
from .bodies import json_object
from .connection import until_gone
from .jobs import Child, Done, Job, Pieces, check_number, collect, jobs_of
from .named_weights import model_ref
from .openai_request import Asked, asked
from .openai_results import (
    chat_logprobs,
    completion_logprobs,
    finish_reason,
    openai_error,
    usage,
)
from .templates import ServedTemplate, checked_ids
from .text_stream import TextStream

__all__ = ["router"]

_DONE = b"data: [DONE]\n\n"
# JSON lets them stand; Python's ``splitlines``, and so httpx's ``iter_lines``, ends a line there.
_LINE_ENDS = {end.encode(): b"\\u%04x" % ord(end) for end in "\x85\u2028\u2029"}


class _OpenAIRoute(APIRoute):
    """Answers errors in OpenAI's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with our errors caught."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except SamplerError as error:
                # Status and headers of the one table; the shape is theirs.
                answer = error_response(error)
                body = _json(openai_error(error))
                headers = {k: v for k, v in answer.headers.items() if k != "content-length"}
                return Response(body, answer.status_code, headers)

        return handled


router = APIRouter(route_class=_OpenAIRoute)


@router.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    """One conversation."""
    return await _serve(request, is_chat=True)


@router.post("/v1/completions")
async def completions(request: Request) -> Response:
    """One prompt or several, as text or token ids."""
    return await _serve(request, is_chat=False)


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What every part of one answer needs."""

    hub: Hub
    asked: Asked
    jobs: list[Job]
    is_chat: bool
    model: str
    hidden: frozenset[int]
    id: str
    created: int

    def decode(self, ids: Any) -> str:
        """Text with special tokens; a model without a tokenizer has none."""
        return "" if self.hub.tokenizer is None else self.hub.tokenizer.decode(ids)

    def text_stream(self) -> TextStream:
        """For one sequence."""
        return TextStream(self.decode, self.hidden, self.asked.params.stop_texts)

    def envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """The object around choices."""
        prefix = "chat.completion" if self.is_chat else "text_completion"
        name = prefix + (".chunk" if self.is_chat and kind == "chunk" else "")
        return {
            "id": self.id,
            "object": name,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def logprobs(self, columns: Columns, offset: int) -> dict[str, Any] | None:
        """Logprobs of some columns, where the text before them has ``offset`` characters."""
        if self.is_chat:
            return chat_logprobs(columns, self.asked.top, self.decode)
        return completion_logprobs(columns, self.asked.top, self.decode, offset)

    def extras(self, columns: Columns) -> dict[str, Any]:
        """Fields that only those get who ask for them."""
        return {"token_ids": columns.token_ids.tolist()} if self.asked.return_token_ids else {}

    def usage(self, completion_tokens: int) -> dict[str, int]:
        """Token counts of the whole answer."""
        return usage(sum(len(job.prompt) for job in self.jobs), completion_tokens)


async def _serve(request: Request, is_chat: bool) -> Response:
    state = request.app.state
    state.access.check(request.headers, "sample")
    body = await json_object(request)
    answer = await _prepare(state.hub, ServedTemplate.of(state), body, is_chat, state.declared())
    if not answer.asked.stream:
        results = await until_gone(request, collect(answer.hub, answer.jobs))
        return Response(_json(_whole(answer, results)), media_type="application/json")
    events = _events(answer)
    # Up to the first event, so that what fails at once has a status of its own.
    first = await until_gone(request, _next(events))

    async def stream() -> AsyncIterator[bytes]:
        try:
            yield first
            async for event in events:
                yield event
        finally:
            await events.aclose()

    return StreamingResponse(
        stream(), media_type="text/event-stream", headers={"cache-control": "no-cache"}
    )


async def _next(events: AsyncIterator[bytes]) -> bytes:
    return await anext(events)


async def _prepare(
    hub: Hub,
    template: ServedTemplate,
    body: dict[str, Any],
    is_chat: bool,
    declared: Mapping[str, str],
) -> _Answer:
    if hub.is_refusing:
        raise Draining("the replica is draining; ask another one")
    ref = model_ref(hub, body.get("model"), declared)
    wanted = asked(body, is_chat)
    hub.planner.of(wanted.params)
    if is_chat:
        if "messages" not in body:
            raise InvalidRequest("messages: missing", "messages")
        is_scored = wanted.params.max_tokens == 0
        conversation = {"messages": body["messages"]}
        prompts = [await template.prompt_ids(conversation, is_scored=is_scored)]
    else:
        prompts = await _prompts(hub, template, body)
    check_number(len(prompts), wanted.number)
    return _Answer(
        hub=hub,
        asked=wanted,
        jobs=jobs_of(prompts, wanted.params, wanted.number, ref),
        is_chat=is_chat,
        model=body["model"],
        hidden=await template.special_ids(),
        id=("chatcmpl-" if is_chat else "cmpl-") + uuid.uuid4().hex,
        created=int(time.time()),
    )


async def _prompts(
    hub: Hub, template: ServedTemplate, body: dict[str, Any]
) -> list[NDArray[np.int32]]:
    prompt = body.get("prompt")
    if not isinstance(prompt, str | list) or not prompt:
        raise InvalidRequest(
            "prompt: must be a text, token ids, or a list of either, not empty", "prompt"
        )
    several = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
    check_number(len(several), 1)
    found = []
    for i, item in enumerate(several):
        field = "prompt" if several is not prompt else f"prompt[{i}]"
        if isinstance(item, str):
            found.append(await template.prompt_ids({"prompt": item}, field=field))
        else:
            found.append(checked_ids(item, hub.card, field))
    return found


def _whole(answer: _Answer, results: list[Done | SamplerError]) -> dict[str, Any]:
    choices = []
    tokens = 0
    for i, result in enumerate(results):
        if isinstance(result, SamplerError):
            raise result
        for k, child in enumerate(result.children):
            _raise_failure(child.flag, child.error)
            tokens += len(child.columns)
            choices.append(_choice(answer, i * answer.asked.number + k, child))
    return {**answer.envelope("whole", choices), "usage": answer.usage(tokens)}


def _raise_failure(flag: int, error: SamplerError | None) -> None:
    if flag in (ERROR, ABORT):
        raise error or EngineFailed("the sequence was ended before it was complete")


def _stop_text(ended: Child | Piece) -> str | None:
    return ended.matched if isinstance(ended.matched, str) else None


def _choice(answer: _Answer, index: int, child: Child) -> dict[str, Any]:
    stream = answer.text_stream()
    text = stream.end(child.columns.token_ids.tolist(), _stop_text(child))
    return {
        "index": index,
        **(
            {"message": {"role": "assistant", "content": text}}
            if answer.is_chat
            else {"text": text}
        ),
        "logprobs": answer.logprobs(child.columns, 0),
        "finish_reason": finish_reason(child.flag),
        **answer.extras(child.columns),
    }


async def _events(answer: _Answer) -> AsyncGenerator[bytes, None]:
    """The events of a stream. What fails before the first of them is raised."""
    number = answer.asked.number
    texts = [answer.text_stream() for _ in range(len(answer.jobs) * number)]
    tokens = 0
    has_begun = False
    try:
        async with Pieces(answer.hub, answer.jobs) as pieces:
            async for job, piece in pieces:
                _raise_failure(piece.flag, piece.error)
                if not has_begun and answer.is_chat:
                    for index in range(len(texts)):
                        yield _chunk(answer, [_delta(answer, index, role="assistant")])
                has_begun = True
                index = job * number + piece.child
                stream = texts[index]
                offset = stream.length
                tokens += len(piece.columns)
                ids = piece.columns.token_ids.tolist()
                if piece.flag == RUNNING:
                    text = stream.feed(ids)
                else:
                    text = stream.end(
                        ids, piece.matched if isinstance(piece.matched, str) else None
                    )
                if not (text or len(piece.columns) or piece.flag != RUNNING):
                    continue
                choice = _delta(answer, index, text)
                choice["logprobs"] = answer.logprobs(piece.columns, offset)
                choice["finish_reason"] = finish_reason(piece.flag)
                yield _chunk(answer, [choice | answer.extras(piece.columns)])
    except SamplerError as error:
        if not has_begun:
            raise
        # The status has been sent; a stream without its [DONE] is not complete.
        yield _event(openai_error(error))
        return
    if answer.asked.include_usage:
        last = {**answer.envelope("chunk", []), "usage": answer.usage(tokens)}
        yield _event(last)
    yield _DONE


def _delta(answer: _Answer, index: int, text: str = "", role: str | None = None) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": None}
    if not answer.is_chat:
        return choice | {"text": text}
    delta = {"content": text} if role is None else {"role": role, "content": ""}
    return choice | {"delta": delta}


def _chunk(answer: _Answer, choices: list[dict[str, Any]]) -> bytes:
    return _event(answer.envelope("chunk", choices))


def _event(value: Any) -> bytes:
    """As one line, however its reader tells lines apart."""
    text = _json(value)
    for end, escape in _LINE_ENDS.items():
        text = text.replace(end, escape)
    return b"data: " + text + b"\n\n"
