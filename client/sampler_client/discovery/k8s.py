"""The replicas of a fleet on Kubernetes, by a watch on the EndpointSlices of its Service.

Whatever the API server does, the last set holds until it has told another one: sampling needs the
replicas alone. Where it lets nobody look, DNS names them.
"""

import asyncio
import logging
import os
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Final

from sampler_api.names import DATA_PORT, REPLICAS_SUFFIX

from . import K8S_SCHEME
from .dns import AddressRecords, Resolve, resolved
from .endpoint import Endpoint
from .kube_access import opened_access
from .slices import ApiError, ApiRefusal, EndpointSlices, FleetName, role_binding

__all__ = ["K8sDiscovery", "retry_delay"]

log = logging.getLogger("sampler_client")

_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_FIRST_DELAY_SECONDS: Final = 0.5
_LONGEST_DELAY_SECONDS: Final = 30.0
_WATCH_SECONDS: Final = 120
_REFUSED_SECONDS: Final = 180.0
_LOOK_SECONDS: Final = 5.0


def retry_delay(failures: int, draw: float) -> float:
    """Seconds before the next attempt after so many in a row that failed; ``draw`` is of [0, 1)."""
    longest = min(_FIRST_DELAY_SECONDS * 2.0 ** min(failures - 1, 16), _LONGEST_DELAY_SECONDS)
    return longest * (1 + draw) / 2


class K8sDiscovery:
    """``k8s://NAMESPACE/NAME``.

    A list and a watch behind it; after whatever ends the watch early, also a 410, a new list, with
    credentials that are read anew. ``is_encrypted`` is for DNS, which cannot say it.
    """

    def __init__(
        self,
        target: str,
        *,
        is_encrypted: bool = False,
        resolve: Resolve = resolved,
        draw: Callable[[], float] = random.random,
        refused_seconds: float = _REFUSED_SECONDS,
    ) -> None:
        self._name = FleetName.of(target, _own_namespace())
        self._service = f"{self._name.name}{REPLICAS_SUFFIX}"
        self.fleet = str(self._name)
        self.certificate_name = f"{self._service}.{self._name.namespace}.svc"
        namespace, name = self._name.namespace, self._name.name
        self._nobody = (
            f"no replica of Service {self._service} is ready:"
            f" `kubectl get sd {name} --namespace={namespace} -o wide` says why"
        )
        self._records = AddressRecords(
            self.certificate_name, DATA_PORT, is_encrypted=is_encrypted, resolve=resolve
        )
        self._draw = draw
        self._refused_seconds = refused_seconds
        self._problem = ""
        self._has_listed = False
        self._has_warned = False

    @property
    def description(self) -> str:
        """What the user wrote, and why it has no replica."""
        problems = "; ".join(filter(None, (self._problem, self._records.problem)))
        target = f"{K8S_SCHEME}://{self._name}"
        return f"{target} ({problems})" if problems else target

    async def watch(self) -> AsyncGenerator[frozenset[Endpoint]]:
        """The engines that take new work, and again whenever they change."""
        known: frozenset[Endpoint] | None = None
        async with aclosing(self._told()) as sets:
            async for found in sets:
                if found != known:
                    known = found
                    yield found

    async def _told(self) -> AsyncGenerator[frozenset[Endpoint]]:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began, is_refused = loop.time(), False
            try:
                async with aclosing(self._by_slices()) as sets:
                    async for found in sets:
                        yield found
            except ApiRefusal as refusal:
                is_refused = True
                self._warn(refusal)
            except ApiError as error:
                self._note(str(error))
            except Exception as error:
                # Of a library: whatever it is, the fleet is sampled from.
                log.exception("%s: the watch failed", self._name)
                self._note(repr(error))
            failures = 1 if loop.time() - began > _LONGEST_DELAY_SECONDS else failures + 1
            delay = retry_delay(failures, self._draw())
            if is_refused:
                failures, delay = 0, self._refused_seconds
            # A container that starts again in an outage of the API server.
            elif self._has_listed or not _is_in_cluster():
                await asyncio.sleep(delay)
                continue
            async with aclosing(self._by_records(delay)) as sets:
                async for found in sets:
                    yield found

    async def _by_slices(self) -> AsyncGenerator[frozenset[Endpoint]]:
        """Ends with an ApiError."""
        path = f"/apis/discovery.k8s.io/v1/namespaces/{self._name.namespace}/endpointslices"
        query = {"labelSelector": f"kubernetes.io/service-name={self._service}"}
        loop = asyncio.get_running_loop()
        async with opened_access() as api:
            slices = EndpointSlices(await api.get(path, query))
            yield self._noted(slices.endpoints)
            query["allowWatchBookmarks"] = "true"
            while True:
                # Not all clients of a fleet come back at once.
                seconds = round(_WATCH_SECONDS * (1 + self._draw()) / 2)
                began = loop.time()
                query["resourceVersion"] = slices.version
                async with aclosing(api.watch(path, query, seconds)) as lines:
                    async for line in lines:
                        slices.take(line)
                        yield self._noted(slices.endpoints)
                if loop.time() - began < seconds / 2:
                    raise ApiError("the API server ended the watch early")

    async def _by_records(self, seconds: float) -> AsyncGenerator[frozenset[Endpoint]]:
        """What DNS says for so long."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        while (left := ends - loop.time()) > 0:
            found = await self._records.look()
            if found is not None:
                yield found
            await asyncio.sleep(min(left, _LOOK_SECONDS * (1 + self._draw()) / 2))

    def _noted(self, found: frozenset[Endpoint]) -> frozenset[Endpoint]:
        if not self._has_listed:
            log.info("%s: found %d endpoints by EndpointSlices", self._name, len(found))
        self._has_listed = True
        self._records.problem = ""
        self._problem = "" if found else self._nobody
        return found

    def _note(self, problem: str) -> None:
        if problem != self._problem:
            log.warning("%s: %s; trying again, sampling goes on", self._name, problem)
        self._problem = problem

    def _warn(self, refusal: ApiRefusal) -> None:
        self._problem = str(refusal)
        if self._has_warned:
            return
        self._has_warned = True
        advice = role_binding(str(refusal), self._name.namespace)
        log.warning(
            "%s: the API server lets nobody here look for replicas (%s). They are found by DNS"
            " (%s) until it does, which is slower to learn of changes. %s",
            self._name,
            refusal,
            self._records.host,
            f"To allow it: {advice}"
            if advice
            else "Give this pod its service account's token, or this process a kubeconfig.",
        )


def _own_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text().strip()
    except OSError:
        return "default"


def _is_in_cluster() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ
