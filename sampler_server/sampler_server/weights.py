"""Replaces the base that a hub serves: check, let what runs end, change, announce.

One order for every engine. Files are checked while the old weights serve. Then nothing new begins,
and what runs ends in one of three ways. The engine is empty when its weights change, so that no
keys and values of the old ones are left, and what goes on does so from its tokens. Digest and card
follow in the same turn of the loop in which requests may begin again.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol, get_args

from sampler_api.errors import (
    Busy,
    EngineDead,
    EngineFailed,
    InvalidRequest,
    ProgressTimeout,
    RevisionGone,
    Unsupported,
    WeightsInvalid,
)
from sampler_api.fleet import WeightsUpdate, WeightsUpdated
from sampler_api.revisions import InFlight
from sampler_core.checked_weights import (
    BaseLayout,
    CheckedWeights,
    check_weights,
    weights_directory,
)

from .hub import Hub

__all__ = ["InFlightReaders", "WeightUpdates"]

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 0.02
_CHANGE_SECONDS: Final = 1800.0
"""How long an engine may stand still while its weights change, before it counts as wedged."""


class InFlightReaders(Protocol):
    """Whoever begins sequences on a hub: the sessions of a server, or the calls of this process."""

    def hold(self) -> None:
        """Begin nothing from now on."""
        ...

    @property
    def is_waiting(self) -> bool:
        """Something that was accepted has not ended."""
        ...

    async def hand_over(self) -> None:
        """Let running sequences go, so that they go on from their tokens later."""
        ...

    async def flush(self) -> None:
        """Tell clients how their sequences have ended, before they hear of another base."""
        ...

    async def release(self, previous: str, are_continued: bool) -> None:
        """Begin again; ``hub.card`` says what is served. ``previous``: the base before.

        ``are_continued``: what was handed over goes on under another base.
        """
        ...


class WeightUpdates:
    """The updates of one hub, one at a time; all methods on its loop.

    ``layout`` is that of the base that serves, ``roots`` where new weights may lie (``None``:
    anywhere). ``refusal`` says why a base must not be served here.
    """

    def __init__(
        self,
        hub: Hub,
        readers: InFlightReaders,
        layout: Callable[[], BaseLayout | None],
        roots: Sequence[Path] | None = None,
        refusal: Callable[[str], str] = lambda base: "",
    ) -> None:
        self._hub = hub
        self._readers = readers
        self._layout = layout
        self._roots = roots
        self._refusal = refusal
        self._task: asyncio.Task[WeightsUpdated] | None = None

    async def update(self, wanted: WeightsUpdate) -> WeightsUpdated:
        """Serve the weights of a directory instead; returns when they serve.

        Raises WeightsInvalid, Unsupported, EngineFailed, Busy (another update is under way) and
        ProgressTimeout (running sequences did not end in time): the old weights go on serving.
        Raises EngineDead when nobody can say which weights the engine has.
        """
        _check(wanted)
        if self._task is not None and not self._task.done():
            raise Busy("another update of the weights is under way")
        # A caller that goes away must not leave it halfway.
        self._task = asyncio.create_task(self._update(wanted))
        return await asyncio.shield(self._task)

    async def close(self) -> None:
        """Wait for what is under way; after the engine's end it ends too."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _update(self, wanted: WeightsUpdate) -> WeightsUpdated:
        previous = self._hub.card.base
        weights = await asyncio.to_thread(self._checked, wanted.directory)
        if weights.digest == previous:
            return WeightsUpdated(previous, previous)
        problem = self._refusal(weights.digest)
        if problem:
            raise WeightsInvalid(f"directory: {problem}", "directory")
        log.info("replacing base %s by %s (%s)", previous, weights.digest, wanted.in_flight)
        self._hub.change.begin()
        self._readers.hold()
        is_changed = False
        try:
            await self._empty(wanted)
            await self._change(weights)
            is_changed = True
        finally:
            await self._readers.flush()
            self._hub.change.end()
            await self._readers.release(previous, is_changed and wanted.in_flight == "continue")
        return WeightsUpdated(weights.digest, previous)

    def _checked(self, directory: str) -> CheckedWeights:
        return check_weights(weights_directory(directory), self._layout(), self._roots)

    async def _empty(self, wanted: WeightsUpdate) -> None:
        """Until the engine has no sequence that anybody reads."""
        hub = self._hub
        if wanted.in_flight == "finish":
            limit = wanted.finish_seconds
            ends = None if limit is None else hub.clock() + limit
            while hub.table.running or self._readers.is_waiting:
                if ends is not None and hub.clock() >= ends:
                    raise ProgressTimeout(
                        f"finish_seconds: {len(hub.table.running)} sequences still run after "
                        f"{limit:g} s; the old weights go on serving",
                        "finish_seconds",
                    )
                await asyncio.sleep(_LOOK_SECONDS)
        hub.change.close()
        if wanted.in_flight == "continue":
            await self._readers.hand_over()
        for stream in list(hub.table.running.values()):
            hub.end_with(stream, RevisionGone("the base weights were replaced while it ran"))

    async def _change(self, weights: CheckedWeights) -> None:
        hub = self._hub
        if hub.engine_error is not None:
            raise hub.engine_error
        try:
            with hub.operation("load weights", _CHANGE_SECONDS):
                await asyncio.to_thread(hub.engine.update_weights, weights)
        except (WeightsInvalid, Unsupported, EngineFailed):
            raise
        except Exception as error:
            # By contract everything else leaves weights that nobody knows.
            log.exception("the weights could not be replaced")
            dead = (
                error
                if isinstance(error, EngineDead)
                else EngineDead(f"the weights could not be replaced: {error}")
            )
            hub.die(dead)
            raise dead from error
        hub.rebase()


def _check(wanted: WeightsUpdate) -> None:
    if wanted.in_flight not in get_args(InFlight):
        names = ", ".join(get_args(InFlight))
        raise InvalidRequest(
            f"in_flight: must be one of {names}, not {wanted.in_flight!r}", "in_flight"
        )
    limit = wanted.finish_seconds
    if limit is not None and not (isinstance(limit, int | float) and 0 <= limit < float("inf")):
        raise InvalidRequest(
            f"finish_seconds: must be a number of seconds from 0, not {limit!r}", "finish_seconds"
        )
    if limit is not None and wanted.in_flight != "finish":
        raise InvalidRequest(
            f"finish_seconds: means nothing with in_flight={wanted.in_flight!r}", "finish_seconds"
        )
