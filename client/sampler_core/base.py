"""The Sampler that all samplers are: inputs to groups, groups to responses; a Backend runs them.

Nothing here knows whether the backend is an engine in this process or a fleet.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sampler_api.errors import InvalidRequest, SamplerError
from sampler_api.frames import ModelCard, RevisionRef
from sampler_api.params import SamplingParams
from sampler_api.results import Responses, SampledSequence
from sampler_api.revisions import AdapterRevision, Revision
from sampler_api.sampler import Sampler
from sampler_api.types import Input

from .aliases import AdapterAliases
from .calls import (
    Call,
    LoopNotifier,
    errors_of,
    failed_response,
    progress_bar,
    raise_first,
    respond,
)
from .groups import Backend, Group
from .inputs import (
    check_supported,
    is_encoded,
    normalise_inputs,
    prompt_ids,
    resolve_num_samples,
)
from .resuming import preload, resumed_sequences
from .seeds import child_seed, group_hash
from .streaming import AsyncSampleStream, SampleStream
from .template import Template, resolve_template
from .view import InputView

__all__ = ["CallOptions", "PreparedCall", "SamplerBase"]

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


class PreparedCall(msgspec.Struct):
    """Groups that can run, and the inputs that were refused before they were sent."""

    groups: list[Group]
    views: dict[int, InputView]
    errors: dict[int, SamplerError]


class SamplerBase(Sampler):
    """Template, adapters and calls over a :class:`Backend`. Usable from several threads and event
    loops."""

    def __init__(self, backend: Backend, snapshot_dir: Callable[[], Path] | None = None) -> None:
        self._backend = backend
        self._template: Any = None
        self._template_lock = threading.Lock()
        self._has_warned = False
        self._aliases = AdapterAliases(snapshot_dir)

    # -- the template ------------------------------------------------------------------------------

    @property
    def template(self) -> Any:
        """The template in use; without ``set_template`` the one of the served model's tokenizer.

        ``None`` when the model has no tokenizer.
        """
        with self._template_lock:
            if self._template is None:
                files = self._backend.tokenizer_files()
                if files:
                    self._template = Template.from_files(files)
            return self._template

    def set_template(self, template_cls: Any, **kwargs: Any) -> None:
        """Use a template: a class, an instance, a registered class name with ``model_id=``, a model
        id or a path."""
        template = resolve_template(template_cls, files=self._backend.tokenizer_files, **kwargs)
        with self._template_lock:
            self._template = template

    # -- adapters ----------------------------------------------------------------------------------

    def add_adapter_to_model(
        self, adapter_name: str, config_or_dir: Any, **kwargs: Any
    ) -> AdapterRevision:
        """Bind a name to immutable adapter bytes; see :class:`~sampler_api.sampler.Sampler`.

        ``generation=`` sets the revision's generation (a training step); it must grow.
        """
        generation = kwargs.pop("generation", None)
        if kwargs:
            name = next(iter(kwargs))
            raise InvalidRequest(f"{name}: unknown argument of add_adapter_to_model", name)
        bound = self._aliases.bind(
            adapter_name, config_or_dir, generation, self._backend.create_adapter
        )
        self._backend.ensure_adapter(self._ref(bound))
        self._aliases.commit(bound)
        return bound

    def _ref(self, bound: AdapterRevision) -> RevisionRef:
        return RevisionRef(self._backend.card().base, bound.digest, bound.name, bound.path)

    def _resolve_ref(
        self, card: ModelCard, adapter_name: str, adapter_path: str | None, use_base_model: bool
    ) -> RevisionRef:
        if use_base_model or not (adapter_name or adapter_path):
            return RevisionRef(card.base)
        if adapter_path:
            bound = self._aliases.of_path(str(adapter_path), adapter_name)
        else:
            bound = self._aliases.get(adapter_name)
        return RevisionRef(card.base, bound.digest, bound.name, bound.path)

    # -- calls -------------------------------------------------------------------------------------

    def _options(
        self,
        sampling_params: SamplingParams | Mapping[str, Any] | None,
        num_samples: int,
        adapter_name: str,
        adapter_path: str | None,
        use_base_model: bool,
        group_key: str | Sequence[str] | None,
        session_key: str | None,
    ) -> CallOptions:
        params = SamplingParams.of(sampling_params)
        number = resolve_num_samples(params, num_samples)
        card = self._backend.card()
        if not self._has_warned and _has_masked_logprobs(params, card):
            self._has_warned = True
            log.warning(
                "logprobs with top_p, top_k or min_p are of the truncated distribution: a trainer "
                "must mask the same candidates, or ask for logprobs_mode='raw'"
            )
        ref = self._resolve_ref(card, adapter_name, adapter_path, use_base_model)
        return CallOptions(
            params, number, ref, Revision(ref.base, ref.adapter), card, group_key, session_key
        )

    def _group(
        self,
        index: int,
        feature: dict[str, Any],
        options: CallOptions,
        on_done: Any,
        resumed: SampledSequence | None = None,
    ) -> tuple[Group, InputView]:
        params = options.params
        encoded = feature
        if not is_encoded(feature):
            check_supported(feature)
            template = self.template
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
            preload(group.children[0], resumed)
        return group, InputView(encoded, ids, self._template or self)

    def _prepare(
        self,
        inputs: Sequence[dict[str, Any]],
        options: CallOptions,
        on_done: Any,
        resume: SampledSequence | Sequence[SampledSequence | None] | None,
    ) -> PreparedCall:
        resumed = resumed_sequences(resume, len(inputs), options.num_samples)
        prepared = PreparedCall([], {}, {})
        keys = options.group_keys
        if keys is not None and not isinstance(keys, str) and len(keys) != len(inputs):
            raise InvalidRequest(
                f"group_key: {len(keys)} keys for {len(inputs)} inputs", "group_key"
            )
        for index, feature in enumerate(inputs):
            try:
                group, view = self._group(index, feature, options, on_done, resumed[index])
            except SamplerError as error:
                prepared.errors[index] = error
            else:
                prepared.groups.append(group)
                prepared.views[index] = view
        return prepared

    def _finish(
        self, number: int, prepared: PreparedCall, options: CallOptions, on_error: str
    ) -> Responses:
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

    def sample(
        self,
        inputs: Input | Sequence[Input],
        sampling_params: SamplingParams | Mapping[str, Any] | None = None,
        adapter_name: str = "",
        *,
        num_samples: int = 1,
        adapter_path: str | None = None,
        use_base_model: bool = False,
        group_key: str | Sequence[str] | None = None,
        session_key: str | None = None,
        on_error: str = "raise",
        progress: bool = False,
        resume: SampledSequence | Sequence[SampledSequence | None] | None = None,
    ) -> Responses:
        """Sample and wait; see :class:`~sampler_api.sampler.Sampler`. Ctrl-C cancels at the
        engines.

        ``resume`` continues sequences that an earlier call returned, one per input, under the
        revision of this call.
        """
        _check_on_error(on_error)
        features = normalise_inputs(inputs)
        options = self._options(
            sampling_params,
            num_samples,
            adapter_name,
            adapter_path,
            use_base_model,
            group_key,
            session_key,
        )
        complete = threading.Event()
        call = Call(complete.set)
        prepared = self._prepare(features, options, call.group_done, resume)
        call.expect(len(prepared.groups))
        self._backend.submit(prepared.groups)
        try:
            if progress:
                _wait_with_bar(complete, call, len(prepared.groups))
            else:
                complete.wait()
        except BaseException:
            self._backend.cancel(prepared.groups)
            raise
        return self._finish(len(features), prepared, options, on_error)

    async def asample(
        self,
        inputs: Input | Sequence[Input],
        sampling_params: SamplingParams | Mapping[str, Any] | None = None,
        adapter_name: str = "",
        *,
        num_samples: int = 1,
        adapter_path: str | None = None,
        use_base_model: bool = False,
        group_key: str | Sequence[str] | None = None,
        session_key: str | None = None,
        on_error: str = "raise",
        resume: SampledSequence | Sequence[SampledSequence | None] | None = None,
    ) -> Responses:
        """``sample`` for an event loop; cancelling the task cancels at the engines."""
        _check_on_error(on_error)
        features = normalise_inputs(inputs)
        if not self._backend.is_ready:
            await asyncio.to_thread(self._backend.card)
        if self._template is None and not all(map(is_encoded, features)):
            await asyncio.to_thread(lambda: self.template)
        options = self._options(
            sampling_params,
            num_samples,
            adapter_name,
            adapter_path,
            use_base_model,
            group_key,
            session_key,
        )
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        notifier = LoopNotifier.of(loop)
        call = Call(lambda: notifier.resolve(future))
        prepared = self._prepare(features, options, call.group_done, resume)
        call.expect(len(prepared.groups))
        self._backend.submit(prepared.groups)
        try:
            await future
        except BaseException:
            self._backend.cancel(prepared.groups)
            raise
        return self._finish(len(features), prepared, options, on_error)

    def sample_stream(
        self,
        inputs: Input | Iterable[Input],
        sampling_params: SamplingParams | Mapping[str, Any] | None = None,
        adapter_name: str = "",
        *,
        num_samples: int = 1,
        adapter_path: str | None = None,
        use_base_model: bool = False,
        session_key: str | None = None,
        max_pending: int = 4096,
        on_error: str = "return",
    ) -> SampleStream:
        """Iterate ``(index, SampleResponse)`` as groups finish; see :class:`SampleStream`."""
        _check_on_error(on_error)
        options = self._options(
            sampling_params,
            num_samples,
            adapter_name,
            adapter_path,
            use_base_model,
            None,
            session_key,
        )
        return SampleStream(self._backend, self._group, inputs, options, max_pending, on_error)

    def asample_stream(
        self,
        inputs: Input | Iterable[Input] | AsyncIterable[Input],
        sampling_params: SamplingParams | Mapping[str, Any] | None = None,
        adapter_name: str = "",
        *,
        num_samples: int = 1,
        adapter_path: str | None = None,
        use_base_model: bool = False,
        session_key: str | None = None,
        max_pending: int = 4096,
        on_error: str = "return",
    ) -> AsyncSampleStream:
        """``sample_stream`` for an event loop; ``inputs`` may be an async iterator."""
        _check_on_error(on_error)

        def options() -> CallOptions:
            return self._options(
                sampling_params,
                num_samples,
                adapter_name,
                adapter_path,
                use_base_model,
                None,
                session_key,
            )

        return AsyncSampleStream(self._backend, self._group, inputs, options, max_pending, on_error)

    # -- life --------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        """What a pickled copy takes along: the template that was set, and the adapters' names."""
        return {"template": self._template, "adapters": self._aliases.bound()}

    def _set_state(self, state: dict[str, Any]) -> None:
        self._template = state["template"]
        for revision in state["adapters"]:
            self._aliases.commit(revision)

    def close(self) -> None:
        """End everything; calls that still wait raise SamplerClosed. Idempotent."""
        self._backend.close()

    def __enter__(self) -> "SamplerBase":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _has_masked_logprobs(params: SamplingParams, card: ModelCard) -> bool:
    """Whether logprobs were asked for that leave out what truncation removed."""
    mode = params.logprobs_mode or card.logprobs_modes[0]
    if params.logprobs is None or mode == "raw" or params.is_greedy:
        return False
    return params.top_p < 1 or params.top_k > 0 or params.min_p > 0


def _check_on_error(on_error: str) -> None:
    if on_error not in ("raise", "return"):
        raise InvalidRequest(f"on_error: must be 'raise' or 'return', not {on_error!r}", "on_error")


def _wait_with_bar(complete: threading.Event, call: Call, total: int) -> None:
    with progress_bar(total) as bar:
        while not complete.wait(0.1):
            bar.update(call.done - bar.n)
        bar.update(call.done - bar.n)
