"""The baseline of the operator's benchmark: a plain loop that writes the same children."""

import asyncio
import time
from typing import Final

from tests.apiserver import ApiServer

from sampler_api.fleet import AdaptersConfig
from sampler_operator import names
from sampler_operator.kube.api import APPLY, KubeApi
from sampler_operator.kube.resources import CHILDREN, path_of
from sampler_operator.objects import Manifest
from sampler_operator.plan import BuildSettings, desired
from sampler_operator.pod import LAYOUTS, chosen_template
from sampler_operator.settings import default_images
from sampler_operator.spec.parse import parse

__all__ = ["PLAIN", "PlainLoop", "children_of"]

PLAIN: Final = "plain"
"""Its namespace and its user."""
CONCURRENCIES: Final = (8, 16, 32)
TRIED_SHARE: Final = 0.05
"""Of the children, at each concurrency, to find the best."""


def children_of(sd: Manifest, owner: Manifest) -> list[Manifest]:
    """What the operator would write, in another namespace and with an owner there: the garbage
    collector and admission look at owners."""
    parsed = parse(sd)
    settings = BuildSettings(default_images())
    template = chosen_template(parsed, {}, settings.images["sim"], LAYOUTS)
    wanted = desired(parsed, template, AdaptersConfig(), settings)
    for manifest in wanted:
        # By this label they would be the operator's, and it would look at all of them.
        labels = {**manifest["metadata"]["labels"], names.MANAGED_BY: PLAIN}
        [reference] = manifest["metadata"]["ownerReferences"]
        owned = {
            "namespace": PLAIN,
            "labels": labels,
            "ownerReferences": [
                {
                    **reference,
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "name": owner["metadata"]["name"],
                    "uid": owner["metadata"]["uid"],
                }
            ],
        }
        manifest["metadata"] = {**manifest["metadata"], **owned}
    return wanted


async def plain_rate(api: KubeApi, manifests: list[Manifest], concurrency: int) -> float:
    """Child writes per second of a loop that does nothing else."""
    todo = iter(manifests)

    async def work() -> None:
        for manifest in todo:
            kind, meta = manifest["kind"], manifest["metadata"]
            query = {"fieldManager": "plain", "fieldValidation": "Strict"}
            if kind == "ConfigMap":  # as the operator does
                path = path_of(CHILDREN[kind], meta["namespace"])
                await api.call("POST", path, query=query, body=manifest)
                continue
            await api.call(
                "PATCH",
                path_of(CHILDREN[kind], meta["namespace"], meta["name"]),
                query=query,
                body=manifest,
                content_type=APPLY,
            )

    started = time.monotonic()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return len(manifests) / (time.monotonic() - started)


class PlainLoop:
    """The baseline: the children of all SamplerDeployments, written in two halves."""

    def __init__(self, server: ApiServer, manifests: list[list[Manifest]]) -> None:
        self._kubeconfig = str(server.kubeconfig("plain", ("system:masters",)))
        self._manifests = manifests
        self._concurrency = 0
        self.rates: dict[str, float] = {}

    async def before(self) -> None:
        """Find the best concurrency, and write half of what is left with it."""
        tried = {}
        for concurrency in CONCURRENCIES:
            rate = await self._write(int(len(self._manifests) * TRIED_SHARE) + 1, concurrency)
            tried[rate] = concurrency
        self._concurrency = tried[max(tried)]
        half = len(self._manifests) // 2
        self.rates["plain_before_writes_per_s"] = await self._write(half, self._concurrency)

    async def after(self) -> None:
        """Write the rest."""
        rest = len(self._manifests)
        self.rates["plain_after_writes_per_s"] = await self._write(rest, self._concurrency)

    async def _write(self, fleets: int, concurrency: int) -> float:
        part, self._manifests = self._manifests[:fleets], self._manifests[fleets:]
        api = await KubeApi.connect(self._kubeconfig)
        try:
            flat = [manifest for children in part for manifest in children]
            return await plain_rate(api, flat, concurrency)
        finally:
            await api.close()
