"""From what a caller passes to groups that can run, and from finished groups to responses."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sampler_api.errors import InvalidRequest, SamplerError
from sampler_api.frames import ModelCard, RevisionRef
from sampler_api.params import SamplingParams
from sampler_api.results import Responses, SampledSequence
from sampler_api.revisions import Revision

from .aliases import AdapterAliases, BoundAdapter
from .calls import errors_of, failed_response, raise_first, respond
from .checked_params import CheckedParams
from .groups import Backend, Group
from .inputs import check_supported, is_encoded, prompt_ids, resolve_num_samples
from .resuming import check_scores, preload, resumed_sequences
from .seeds import child_seed, group_hash
from .template_slot import TemplateSlot
from .view import InputView

__all__ = ["CallOptions", "PreparedCall", "Preparer", "finish_call"]

log = logging.getLogger(__name__)


class CallOptions(msgspec.Struct, frozen=True):
    """Everything of a call but its inputs, checked and resolved once."""

    params: SamplingParams
    num_samples: int
    ref: RevisionRef
    revision: Revision
    card: ModelCard
    group_keys: str | Sequence[str] | None
    session_key: str | None
    is_interactive: bool = False
    bound: BoundAdapter | None = None
    """Held so that a copy of the adapter lasts as long as the call."""


class PreparedCall(msgspec.Struct):
    """Groups that can run, and the inputs that were refused before they were sent."""

    groups: list[Group]
    views: dict[int, InputView]
    errors: dict[int, SamplerError]


class Preparer:
    """Makes the groups of one sampler's calls. Thread-safe."""

    def __init__(self, backend: Backend, aliases: AdapterAliases, templates: TemplateSlot) -> None:
        self._backend = backend
        self._aliases = aliases
        self._templates = templates
        self._has_warned = False
        self._params = CheckedParams()

    def options(
        self,
        sampling_params: SamplingParams | Mapping[str, Any] | None,
        num_samples: int,
        adapter_name: str,
        adapter_path: str | None,
        use_base_model: bool,
        group_key: str | Sequence[str] | None,
        session_key: str | None,
    ) -> CallOptions:
        """What holds for all inputs of a call. Raises InvalidRequest; blocks until the model is
        known."""
        params = self._params.of(sampling_params)
        if session_key is not None and not isinstance(session_key, str):
            raise InvalidRequest(f"session_key: must be a text, not {session_key!r}", "session_key")
        _check_group_key(group_key)
        _check_adapter(adapter_name, adapter_path)
        number = resolve_num_samples(params, num_samples)
        card = self._backend.card()
        if not self._has_warned and _has_masked_logprobs(params, card):
            self._has_warned = True
            log.warning(
                "logprobs with top_p, top_k or min_p are of the truncated distribution: a trainer "
                "must mask the same candidates, or ask for logprobs_mode='raw'"
            )
        bound = None if use_base_model else self._resolve(adapter_name, adapter_path)
        ref = RevisionRef(card.base)
        if bound is not None:
            adapter = bound.revision
            ref = RevisionRef(card.base, adapter.digest, adapter.name, adapter.path)
        return CallOptions(
            params,
            number,
            ref,
            Revision(ref.base, ref.adapter),
            card,
            group_key,
            session_key,
            bound=bound,
        )

    def _resolve(self, adapter_name: str, adapter_path: str | None) -> BoundAdapter | None:
        if adapter_path:
            return self._aliases.of_path(str(adapter_path), adapter_name)
        return self._aliases.get(adapter_name) if adapter_name else None

    def group(
        self,
        index: int,
        feature: dict[str, Any],
        options: CallOptions,
        on_done: Any,
        resumed: SampledSequence | None = None,
    ) -> tuple[Group, InputView]:
        """One input, encoded and checked. Raises InvalidRequest, Unsupported."""
        params = options.params
        encoded = feature
        if not is_encoded(feature):
            check_supported(feature)
            template = self._templates.template
            if template is None:
                raise InvalidRequest(
                    "messages: the served model has no tokenizer; call set_template(...) "
                    "or give input_ids",
                    "messages",
                )
            encoded = template.encode(feature, add_generation_prompt=params.max_tokens != 0)
        ids = prompt_ids(encoded, options.card.vocab_size, options.card.context_limit)
        seed = params.seed
        number = options.num_samples
        seeds: Sequence[int | None] = (
            [None] * number if seed is None else [child_seed(seed, index, k) for k in range(number)]
        )
        keys = options.group_keys
        explicit = keys if keys is None or isinstance(keys, str) else keys[index]
        if options.session_key is not None:
            explicit = (
                options.session_key if explicit is None else f"{options.session_key}/{explicit}"
            )
        key = group_hash(ids.data, options.ref.base, options.ref.adapter, explicit)
        group = Group(index, ids, params, options.ref, seeds, key, on_done, options.is_interactive)
        if resumed is not None:
            check_scores(resumed, params)
            preload(group.children[0], resumed, options.card.vocab_size)
        return group, InputView(encoded, ids, self._templates.loaded or self._templates)

    def prepare(
        self,
        inputs: Sequence[dict[str, Any]],
        options: CallOptions,
        on_done: Any,
        resume: SampledSequence | Sequence[SampledSequence | None] | None,
    ) -> PreparedCall:
        """All inputs; the ones that are refused stand in ``errors``."""
        resumed = resumed_sequences(resume, len(inputs), options.num_samples)
        prepared = PreparedCall([], {}, {})
        keys = options.group_keys
        if keys is not None and not isinstance(keys, str) and len(keys) != len(inputs):
            raise InvalidRequest(
                f"group_key: {len(keys)} keys for {len(inputs)} inputs; give one per input",
                "group_key",
            )
        for index, feature in enumerate(inputs):
            try:
                group, view = self.group(index, feature, options, on_done, resumed[index])
            except SamplerError as error:
                prepared.errors[index] = error
            else:
                prepared.groups.append(group)
                prepared.views[index] = view
        return prepared


def finish_call(
    number: int, prepared: PreparedCall, options: CallOptions, on_error: str
) -> Responses:
    """One response per input, in order; raises the first error when ``on_error`` says so."""
    by_index = {group.index: group for group in prepared.groups}
    responses = Responses()
    for index in range(number):
        group = by_index.get(index)
        if group is None:
            responses.append(failed_response(prepared.errors[index], options.num_samples))
        else:
            responses.append(respond(group, prepared.views[index], options.revision))
    if on_error == "raise":
        raise_first({**prepared.errors, **errors_of(prepared.groups)}, responses)
    return responses


def _check_adapter(name: Any, path: Any) -> None:
    """Only '' for the name and None for the path mean none: what is a mistake must not sample from
    the base."""
    if not isinstance(name, str):
        raise InvalidRequest(
            f"adapter_name: must be a text, not {name!r}; '' or use_base_model=True is the base "
            "model",
            "adapter_name",
        )
    if path is not None and (not path or not isinstance(path, str | os.PathLike)):
        raise InvalidRequest(
            f"adapter_path: must be a directory, not {path!r}; None or use_base_model=True is the "
            "base model",
            "adapter_path",
        )


def _check_group_key(key: Any) -> None:
    if key is None or isinstance(key, str):
        return
    if not isinstance(key, Sequence) or not all(isinstance(item, str) for item in key):
        raise InvalidRequest(
            f"group_key: must be a text, or a list of one text per input, not {key!r}", "group_key"
        )


def _has_masked_logprobs(params: SamplingParams, card: ModelCard) -> bool:
    """Whether logprobs were asked for that leave out what truncation removed."""
    mode = params.logprobs_mode or card.logprobs_modes[0]
    if params.logprobs is None or mode == "raw" or params.is_greedy:
        return False
    return params.top_p < 1 or params.top_k > 0 or params.min_p > 0
