"""Trajectories to token ids and back: the chat template of a model, run where the caller is.

transformers is imported, and the tokenizer loaded, when the first text needs it.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Self, get_args

from sampler_api.errors import InvalidRequest, SamplerError, Unsupported
from sampler_api.types import ToolCall

from .features import IGNORED, attention_columns, continue_feature, shift_labels
from .inputs import check_supported, prompt_ids
from .messages import standard_messages, standard_tools
from .template_registry import register_template, resolve_template
from .tokenizer_files import load_tokenizer, load_tokenizer_files
from .toolcalls import clean_tool_calls, parse_tool_calls
from .trained_spans import has_generation_marks, trained_spans

__all__ = ["Template", "register_template", "resolve_template"]

TruncationStrategy = Literal["raise", "left", "right", "delete"]
_NO_LIMIT: Final = 1 << 62


@register_template
class Template:
    """The chat template and tokenizer of one model, for text.

    ``model_id`` is a model id or path, ``kwargs`` go to its loader; ``tokenizer`` is one that is
    loaded already. ``max_length`` bounds what :meth:`encode` returns, never what was generated:
    over it ``raise`` refuses the input, ``left`` and ``right`` drop tokens on that side, ``delete``
    refuses it too, and leaves it out of :meth:`batch_encode`. ``use_chat_template=False`` joins the
    contents of the messages as they are.

    Threads may share one. A pickled copy loads its tokenizer anew, from the model id or from the
    files that it was made of.
    """

    def __init__(
        self,
        model_id: str | None = None,
        use_chat_template: bool = True,
        max_length: int | None = None,
        truncation_strategy: TruncationStrategy | str = "raise",
        default_system: str | None = None,
        enable_thinking: bool = True,
        tokenizer: Any = None,
        **kwargs: Any,
    ) -> None:
        if truncation_strategy == "split":
            raise Unsupported(
                "truncation_strategy: 'split' makes several inputs of one; use 'raise', 'left', "
                "'right' or 'delete'",
                "truncation_strategy",
            )
        if truncation_strategy not in get_args(TruncationStrategy):
            raise InvalidRequest(
                f"truncation_strategy: must be 'raise', 'left', 'right' or 'delete', "
                f"not {truncation_strategy!r}",
                "truncation_strategy",
            )
        if max_length is not None and (isinstance(max_length, bool) or max_length < 1):
            raise InvalidRequest(f"max_length: must be >= 1, not {max_length!r}", "max_length")
        self.model_id = model_id
        self.use_chat_template = use_chat_template
        self.max_length = max_length
        self.truncation_strategy = truncation_strategy
        self.default_system = default_system
        self.enable_thinking = enable_thinking
        self._load_kwargs = kwargs
        self._files: dict[str, bytes] | None = None
        self._given = tokenizer
        self._tokenizer = tokenizer
        self._lock = threading.RLock()

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], **kwargs: Any) -> Self:
        """A template of tokenizer files by name; ``kwargs`` are the constructor's."""
        template = cls(**kwargs)
        template._files = dict(files)
        return template

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; loaded at the first use. Raises InvalidRequest when it cannot be."""
        if self._tokenizer is None:
            with self._lock:
                if self._tokenizer is None:
                    self._tokenizer = self._load()
        return self._tokenizer

    def _load(self) -> Any:
        if self._files is not None:
            return load_tokenizer_files(self._files)
        if self.model_id is None:
            raise InvalidRequest("model_id: missing; name the template's model", "model_id")
        return load_tokenizer(self.model_id, **self._load_kwargs)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__, _tokenizer=self._given)
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    # -- text to ids ---------------------------------------------------------------------------

    def encode(
        self, trajectory: Mapping[str, Any], add_generation_prompt: bool = False
    ) -> dict[str, Any]:
        """A new dict: the trajectory's keys and ``input_ids``, ``labels`` and attention columns.

        ``labels`` are shifted left by one: the assistant's tokens, or none of them with
        ``add_generation_prompt``. A trajectory without messages and with a ``prompt`` is that text,
        without a chat template. Raises Unsupported for media, else InvalidRequest.
        """
        check_supported(trajectory)
        ids, labels = self._ids_and_labels(trajectory, add_generation_prompt)
        limit = self.max_length
        if limit is not None and len(ids) > limit:
            if self.truncation_strategy in ("raise", "delete"):
                raise InvalidRequest(
                    f"messages: {len(ids)} tokens, the template's max_length is {limit}",
                    "max_length",
                )
            kept = slice(-limit, None) if self.truncation_strategy == "left" else slice(limit)
            ids, labels = ids[kept], labels[kept]
        made = {**trajectory, "input_ids": ids, "labels": shift_labels(labels)}
        return made | attention_columns(len(ids))

    def batch_encode(
        self,
        trajectories: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]],
        add_generation_prompt: bool = False,
    ) -> list[dict[str, Any]] | dict[str, list[Any]]:
        """Encode many, in order; a dict of columns gives a dict of columns."""
        if isinstance(trajectories, Mapping):
            names = list(trajectories)
            values = zip(*trajectories.values(), strict=True)
            rows: Sequence[Mapping[str, Any]] = [
                dict(zip(names, row, strict=True)) for row in values
            ]
        else:
            rows = trajectories
        made: list[dict[str, Any]] = []
        for row in rows:
            try:
                made.append(self.encode(row, add_generation_prompt))
            except SamplerError as error:
                if error.field != "max_length" or self.truncation_strategy != "delete":
                    raise
        if not isinstance(trajectories, Mapping):
            return made
        return {key: [row[key] for row in made] for key in (made[0] if made else ())}

    def _ids_and_labels(
        self, trajectory: Mapping[str, Any], add_generation_prompt: bool
    ) -> tuple[list[int], list[int]]:
        prompt = trajectory.get("prompt")
        messages = trajectory.get("messages")
        if not messages and isinstance(prompt, str):
            return self._plain(prompt, add_generation_prompt)
        standard = standard_messages(
            messages,
            self.default_system if self.use_chat_template else None,
            self.use_chat_template and "reasoning_content" in self._chat_template(),
        )
        if not self.use_chat_template:
            text = "".join(str(message["content"]) for message in standard)
            return self._plain(text, add_generation_prompt)
        tools = standard_tools(trajectory.get("tools"))
        if add_generation_prompt:
            ids = self._tokenize(self._render(standard, tools, True))["input_ids"]
            return ids, [IGNORED] * len(ids)
        if has_generation_marks(self._chat_template()):
            return self._marked(standard, tools)
        text = self._render(standard, tools, False)
        tokens = self._tokenize(text, return_offsets_mapping=True)
        spans = trained_spans(
            text,
            standard,
            lambda some, prompted: self._render(some, tools, prompted),
            self.tokenizer.eos_token or "",
        )
        ids = tokens["input_ids"]
        labels = [
            token if any(a <= start and end <= b for a, b in spans) else IGNORED
            for token, (start, end) in zip(ids, tokens["offset_mapping"], strict=True)
        ]
        return ids, labels

    def _plain(self, text: str, add_generation_prompt: bool) -> tuple[list[int], list[int]]:
        ids = self._tokenize(text, add_special_tokens=True)["input_ids"]
        return ids, [IGNORED] * len(ids) if add_generation_prompt else list(ids)

    def _marked(self, messages: list[Any], tools: list[Any] | None) -> tuple[list[int], list[int]]:
        """Ids and labels by the chat template's own marks around what the model generates."""
        with self._lock:
            made = self.tokenizer.apply_chat_template(
                messages,
                tools=tools,
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=True,
                enable_thinking=self.enable_thinking,
            )
        ids = list(made["input_ids"])
        masked = zip(ids, made["assistant_masks"], strict=True)
        return ids, [token if mask else IGNORED for token, mask in masked]

    def _chat_template(self) -> str:
        return str(getattr(self.tokenizer, "chat_template", None) or "")

    def _render(self, messages: list[Any], tools: list[Any] | None, prompted: bool) -> str:
        from jinja2 import TemplateError

        tokenizer = self.tokenizer
        if not self._chat_template():
            raise InvalidRequest(
                "messages: the tokenizer has no chat template; use use_chat_template=False or "
                "give input_ids",
                "messages",
            )
        try:
            return str(
                tokenizer.apply_chat_template(
                    messages,
                    tools=tools,
                    tokenize=False,
                    add_generation_prompt=prompted,
                    enable_thinking=self.enable_thinking,
                )
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise InvalidRequest(
                f"messages: the chat template does not take them: {error}", "messages"
            ) from error

    def _tokenize(
        self, text: str, add_special_tokens: bool = False, **kwargs: Any
    ) -> dict[str, list[Any]]:
        # A fast tokenizer refuses a second thread while it changes its settings.
        with self._lock:
            made = self.tokenizer(
                text, add_special_tokens=add_special_tokens, truncation=False, **kwargs
            )
        return {key: list(value) for key, value in made.items()}

    # -- ids to text ---------------------------------------------------------------------------

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> str:
        """Text of token ids (list, array or tensor), special tokens kept unless told."""
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else list(token_ids)
        return str(self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens, **kwargs))

    def batch_decode(
        self, token_ids: Sequence[Any], skip_special_tokens: bool = False, **kwargs: Any
    ) -> list[str]:
        """The text of each row."""
        return [self.decode(row, skip_special_tokens, **kwargs) for row in token_ids]

    def parse_tool_call(self, decoded: str) -> list[ToolCall]:
        """The tool calls in a completion."""
        return parse_tool_calls(decoded)

    def clean_tool_call(self, decoded: str) -> str:
        """The completion without its tool calls."""
        return clean_tool_calls(decoded)

    def concat_input_feature(
        self, prompt_input_feature: Mapping[str, Any], new_tokens: Sequence[int]
    ) -> dict[str, Any]:
        """The feature continued by tokens; see ``sampler_core.features``. Never truncates."""
        ids = prompt_ids(prompt_input_feature, _NO_LIMIT, _NO_LIMIT)
        return continue_feature(prompt_input_feature, ids, new_tokens, self)
