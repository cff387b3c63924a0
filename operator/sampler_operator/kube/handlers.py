"""Registration with kopf: indices and events, nothing that leaves a trace on the resource.

Only ``index`` and ``on.event`` are used: other kinds of handlers write annotations or finalizers.
"""

from collections.abc import Callable
from typing import Any, Final

import kopf
from kopf import DiffBaseStorage, OperatorRegistry, OperatorSettings, ProgressStorage

from .. import names
from ..names import Key, Ref
from ..observed import child_view, pod_view
from .resources import CHILDREN, PODS, SAMPLER_DEPLOYMENTS, Resource
from .view import KubeView, sd_bytes

__all__ = ["operator_settings", "register"]

_LABELLED: Final = frozenset({PODS, *CHILDREN.values()})
_SELECTOR: Final = f"{names.MANAGED_BY}={names.FIELD_MANAGER}"


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
    settings.queueing.idle_timeout = 1.0
    settings.networking.connect_timeout = 10.0
    settings.watching.label_selectors[_is_labelled] = _SELECTOR
    return settings


def _is_labelled(resource: kopf.Resource) -> bool:
    """Kinds of which only what carries our label is watched."""
    return Resource(resource.group, resource.version, resource.plural) in _LABELLED


def register(
    registry: OperatorRegistry,
    view: KubeView,
    enqueue: Callable[[Key], None],
    login: Callable[..., Any],
    started: Callable[[], None],
) -> None:
    """Feed ``view`` and ask for passes; ``started`` is called once with the indices in place."""
    kopf.on.login(registry=registry)(login)

    async def index_sd(*, body: kopf.Body, **_: Any) -> Any:
        return {_key(body, body["metadata"]["name"]): sd_bytes(body)}

    async def index_pod(*, body: kopf.Body, **_: Any) -> Any:
        pod = pod_view(body)
        return {_key(body, pod.fleet): pod}

    async def index_child(*, body: kopf.Body, **_: Any) -> Any:
        child = child_view(body)
        return {_key(body, child.fleet): child}

    async def sd_changed(*, event: Any, body: kopf.Body, **_: Any) -> None:
        key = _key(body, body["metadata"]["name"])
        if event["type"] == "DELETED":
            view.gone(key, None, body["metadata"]["uid"])
        enqueue(key)

    async def child_changed(*, event: Any, body: kopf.Body, **_: Any) -> None:
        key = _key(body, _fleet(body))
        if event["type"] == "DELETED":
            ref = Ref(body["kind"], body["metadata"]["name"])
            view.gone(key, ref, body["metadata"]["uid"])
        enqueue(key)

    async def pod_changed(*, body: kopf.Body, **_: Any) -> None:
        enqueue(_key(body, _fleet(body)))

    kopf.index(**SAMPLER_DEPLOYMENTS._asdict(), id="sds", registry=registry)(index_sd)
    kopf.index(**PODS._asdict(), id="pods", registry=registry)(index_pod)
    kopf.on.event(**SAMPLER_DEPLOYMENTS._asdict(), registry=registry)(sd_changed)
    kopf.on.event(**PODS._asdict(), registry=registry)(pod_changed)
    for kind, resource in CHILDREN.items():
        kopf.index(**resource._asdict(), id=kind, registry=registry)(index_child)
        kopf.on.event(**resource._asdict(), registry=registry)(child_changed)

    @kopf.on.startup(registry=registry)
    async def startup(**indices: Any) -> None:
        children = {kind: indices[kind] for kind in CHILDREN}
        view.attach(indices["sds"], indices["pods"], children)
        started()


def _key(body: kopf.Body, name: str) -> Key:
    return Key(str(body["metadata"]["namespace"]), name)


def _fleet(body: kopf.Body) -> str:
    return str(body["metadata"].get("labels", {}).get(names.FLEET_LABEL, ""))
