"""The Sampler that all samplers are: inputs to groups, groups to responses; a Backend runs them.

Nothing here knows whether the backend is an engine in this process or a fleet.
"""

import asyncio
import threading
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from sampler_api.errors import InvalidRequest
from sampler_api.frames import RevisionRef
from sampler_api.params import SamplingParams
from sampler_api.results import Responses, SampledSequence
from sampler_api.revisions import AdapterRevision
from sampler_api.sampler import Sampler
from sampler_api.types import Input

from .aliases import AdapterAliases, BoundAdapter
from .async_streaming import AsyncSampleStream
from .calls import Call, LoopNotifier, progress_bar
from .groups import Backend
from .inputs import is_encoded, normalise_inputs
from .preparing import CallOptions, Preparer, finish_call
from .streaming import SampleStream
from .template_slot import TemplateSlot

__all__ = ["SamplerBase"]


class SamplerBase(Sampler):
    """Template, adapters and calls over a :class:`Backend`. Usable from several threads and event
    loops."""

    def __init__(self, backend: Backend, snapshot_dir: Callable[[], Path] | None = None) -> None:
        self._backend = backend
        self._templates = TemplateSlot(backend.tokenizer_files)
        self._aliases = AdapterAliases(snapshot_dir)
        self._calls = Preparer(backend, self._aliases, self._templates)

    # -- the template ------------------------------------------------------------------------------

    @property
    def template(self) -> Any:
        """The template in use; without ``set_template`` the one of the served model's tokenizer.

        ``None`` when the model has no tokenizer.
        """
        return self._templates.template

    def set_template(self, template_cls: Any, **kwargs: Any) -> None:
        """Use a template: a class, an instance, a registered class name with ``model_id=``, a model
        id or a path."""
        self._templates.set(template_cls, kwargs)

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
        revision = bound.revision
        base = self._backend.card().base
        self._backend.ensure_adapter(
            RevisionRef(base, revision.digest, revision.name, revision.path)
        )
        self._aliases.commit(bound)
        return revision

    # -- calls -------------------------------------------------------------------------------------

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
        revision of this call. Prompt logprobs are not computed again: a sequence that has tokens
        is refused with ``prompt_logprobs`` (InvalidRequest); score its prompt in a call of its own.
        """
        _check_on_error(on_error)
        features = normalise_inputs(inputs)
        options = self._calls.options(
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
        prepared = self._calls.prepare(features, options, call.group_done, resume)
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
        return finish_call(len(features), prepared, options, on_error)

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
        if self._templates.loaded is None and not all(map(is_encoded, features)):
            await asyncio.to_thread(lambda: self.template)
        arguments = (
            sampling_params,
            num_samples,
            adapter_name,
            adapter_path,
            use_base_model,
            group_key,
            session_key,
        )
        if adapter_path:  # its files are read
            options = await asyncio.to_thread(self._calls.options, *arguments)
        else:
            options = self._calls.options(*arguments)
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        notifier = LoopNotifier.of(loop)
        call = Call(lambda: notifier.resolve(future))
        prepared = self._calls.prepare(features, options, call.group_done, resume)
        call.expect(len(prepared.groups))
        self._backend.submit(prepared.groups)
        try:
            await future
        except BaseException:
            self._backend.cancel(prepared.groups)
            raise
        return finish_call(len(features), prepared, options, on_error)

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
        options = self._calls.options(
            sampling_params,
            num_samples,
            adapter_name,
            adapter_path,
            use_base_model,
            None,
            session_key,
        )
        return SampleStream(
            self._backend, self._calls.group, inputs, options, max_pending, on_error
        )

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
            return self._calls.options(
                sampling_params,
                num_samples,
                adapter_name,
                adapter_path,
                use_base_model,
                None,
                session_key,
            )

        return AsyncSampleStream(
            self._backend,
            self._calls.group,
            inputs,
            options,
            max_pending,
            on_error,
            lambda: self.template,
        )

    # -- life --------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        """What a pickled copy takes along: the template that was set, and the adapters' names."""
        return {"template": self._templates.loaded, "adapters": self._aliases.bound()}

    def _set_state(self, state: dict[str, Any]) -> None:
        self._templates.put(state["template"])
        for revision in state["adapters"]:
            self._aliases.commit(BoundAdapter(revision))

    def close(self) -> None:
        """End everything; calls that still wait raise SamplerClosed. Idempotent."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _check_on_error(on_error: str) -> None:
    if on_error not in ("raise", "return"):
        raise InvalidRequest(f"on_error: must be 'raise' or 'return', not {on_error!r}", "on_error")


def _wait_with_bar(complete: threading.Event, call: Call, total: int) -> None:
    with progress_bar(total) as bar:
        while not complete.wait(0.1):
            bar.update(call.done - bar.n)
        bar.update(call.done - bar.n)
