"""Text and features of the sequences of one input, made when somebody reads them."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .features import Decoder, continue_feature

__all__ = ["InputView", "TemplateSource"]


class TemplateSource(Protocol):
    """Has a template sooner or later, such as a sampler; the tokenizer may load when it is read."""

    @property
    def template(self) -> Any:
        """The template, or ``None`` where there is none."""
        ...


class InputView:
    """The view that all sequences of one input share; see ``sampler_api.results.SequenceView``.

    ``prompt_ids`` i32 [P]. ``template`` is one, or a source that is asked when text is read.
    Without a template there is no text, and messages stay as they were.
    """

    __slots__ = ("_feature", "_prompt_ids", "_template")

    def __init__(
        self,
        feature: Mapping[str, Any],
        prompt_ids: NDArray[np.int32],
        template: Decoder | TemplateSource | None,
    ) -> None:
        self._feature = feature
        self._prompt_ids = prompt_ids
        self._template = template

    def _decoder(self) -> Any:
        template = self._template
        if template is None or hasattr(template, "decode"):
            return template
        return template.template

    def decode(self, tokens: list[int]) -> str | None:
        """Text with special tokens kept; ``None`` without a template or without tokens."""
        template = self._decoder() if tokens else None
        return None if template is None else str(template.decode(tokens))

    def feature(self, tokens: list[int]) -> dict[str, Any]:
        """The input's feature continued by ``tokens``; a new one at each call."""
        # Without messages no text is needed: the tokenizer stays unloaded.
        template = self._decoder() if self._feature.get("messages") is not None else None
        return continue_feature(self._feature, self._prompt_ids, tokens, template)
