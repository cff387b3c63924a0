"""The chat template of the served model, for requests that bring messages or text."""

import asyncio
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sampler_api.errors import InvalidRequest, Unsupported
from sampler_api.frames import ModelCard
from sampler_core.inputs import prompt_ids
from sampler_core.template import Template

from ..hub import Hub

__all__ = ["ServedTemplate", "checked_ids"]


class _AddedToken(msgspec.Struct):
    id: int
    special: bool = False


class _TokenizerFile(msgspec.Struct):
    added_tokens: list[_AddedToken] = []


class ServedTemplate:
    """Template of one hub's tokenizer files; loaded in a thread when the first text comes."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._lock = asyncio.Lock()
        self._template: Template | None = None
        self._special_ids: frozenset[int] | None = None

    @classmethod
    def of(cls, state: Any) -> "ServedTemplate":
        """The one of an application, made when it is first asked for."""
        found = getattr(state, "served_template", None)
        if found is None:
            found = state.served_template = cls(state.hub)
        assert isinstance(found, cls)
        return found

    async def load(self) -> Template:
        """The template. Raises Unsupported when the model has no tokenizer."""
        served = self._hub.tokenizer
        if served is None:
            raise Unsupported(
                "messages: this replica serves a model without a tokenizer; give token ids",
                "messages",
            )
        async with self._lock:
            if self._template is None:
                template = Template.from_files(served.files)
                # Loading imports a large library and reads files.
                await asyncio.to_thread(lambda: template.tokenizer)
                self._template = template
        return self._template

    async def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text; none without a tokenizer."""
        served = self._hub.tokenizer
        if self._special_ids is None and served is not None:
            fast = served.files.get("tokenizer.json")
            if fast is not None:
                # A request with token ids need not wait for the template's library.
                self._special_ids = await asyncio.to_thread(_special_ids, fast)
            else:
                ids = (await self.load()).tokenizer.all_special_ids
                self._special_ids = frozenset(int(i) for i in ids)
        return self._special_ids or frozenset()

    async def prompt_ids(
        self, item: dict[str, Any], *, is_scored: bool = False, field: str | None = None
    ) -> NDArray[np.int32]:
        """Prompt i32 [P] of messages or of a ``prompt`` text.

        What is only scored has no assistant's turn begun behind it. ``field`` is what the client
        calls the text in its request; else it is the key in ``item``. Raises InvalidRequest.
        """
        template = await self.load()
        encoded = await asyncio.to_thread(template.encode, item, not is_scored)
        named = field or ("messages" if item.get("messages") else "prompt")
        return checked_ids(encoded["input_ids"], self._hub.card, named)


def checked_ids(ids: Any, card: ModelCard, field: str) -> NDArray[np.int32]:
    """Prompt i32 [P] of ids that came in, or of, a field with another name than ``input_ids``.

    ``field`` may have an index, ``prompt[1]``. Raises InvalidRequest that names it.
    """
    try:
        return prompt_ids({"input_ids": ids}, card.vocab_size, card.context_limit)
    except InvalidRequest as error:
        text = str(error).removeprefix("input_ids: ")
        raise InvalidRequest(f"{field}: {text}", field.partition("[")[0]) from None


def _special_ids(tokenizer_json: bytes) -> frozenset[int]:
    added = msgspec.json.decode(tokenizer_json, type=_TokenizerFile).added_tokens
    return frozenset(token.id for token in added if token.special)
