"""Registration with kopf: events alone, which leave no trace on the resource.

Other kinds of handlers write annotations or finalizers. Indices do not, but with them kopf holds
every object in memory until all kinds are listed.
"""

from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Any, Final

import kopf
from kopf import DiffBaseStorage, OperatorRegistry, OperatorSettings, ProgressStorage

from ..names import Key
from .resources import SAMPLER_DEPLOYMENTS
from .view import KubeView

__all__ = ["operator_settings", "register"]

_PAGE: Final = 100


class _Backoffs:
    """Seconds between the attempts of a watch, without an end: when kopf gave up after a minute of
    HTTP 5xx, the operator would end. And after a long outage it is back within 5 s, not 21."""

    def __iter__(self) -> Iterator[float]:
        return chain((0.5, 1.0, 2.0), repeat(5.0))


class _NoDiffBase(DiffBaseStorage):
    """kopf would copy every object to find out what has changed in it; nobody asks."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        pass


class _NoProgress(ProgressStorage):
    """Nothing is ever stored on an object."""

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        pass

    def purge(self, **_: Any) -> None:
        pass

    def touch(self, **_: Any) -> None:
        pass

    def clear(self, *, essence: Any) -> Any:
        return essence


def operator_settings(is_namespaced: bool) -> OperatorSettings:
    """kopf as a mere watcher of what is ours."""
    settings = OperatorSettings()
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = is_namespaced
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    settings.queueing.idle_timeout = 0.1
    settings.networking.connect_timeout = 10.0
    settings.networking.error_backoffs = _Backoffs()
    settings.watching.chunk_size = _PAGE
    return settings


def register(
    registry: OperatorRegistry,
    view: KubeView,
    enqueue: Callable[[Key], None],
    relisted: Callable[[], None],
    login: Callable[..., Any],
) -> None:
    """Feed ``view`` and ask for passes; ``relisted`` is called for objects of a list."""
    kopf.on.login(registry=registry)(login)

    async def changed(*, event: Any, **_: Any) -> None:
        see = view.end if event["type"] == "DELETED" else view.put
        for key in see(event["object"]):
            enqueue(key)
        if event["type"] is None:
            relisted()

    kopf.on.event(**SAMPLER_DEPLOYMENTS._asdict(), registry=registry)(changed)
