"""Whether an operator could work here: the CRD is there, and the API server grants every right."""

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from .. import names
from ..errors import Denied, Missing
from .api import KubeApi
from .resources import SAMPLER_DEPLOYMENTS
from .rights import CLUSTER_RIGHTS, NODE_RIGHTS, RIGHTS, Right

__all__ = ["Checked", "check", "is_granted", "require_crd"]

_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class Checked(NamedTuple):
    """Rights that were asked for, with those that are missing, as sentences."""

    asked: int
    missing: tuple[str, ...]
    missing_optional: tuple[str, ...]


async def require_crd(api: KubeApi, namespaces: Iterable[str]) -> None:
    """Raises Missing without the CRD, and Denied without the right to list."""
    for namespace in tuple(namespaces) or ("",):
        try:
            await api.call("GET", SAMPLER_DEPLOYMENTS.path(namespace), query={"limit": "1"})
        except Missing:
            raise Missing(
                f"the cluster has no {names.PLURAL}.{names.GROUP}: apply the CRD first (it is"
                " part of the chart and of manifests/install.yaml)"
            ) from None
        except Denied as error:
            hint = "install the chart's roles (rbac.create)"
            if not namespace:
                hint += ", or with rights in single namespaces use --namespace"
            raise Denied(f"{error.message}; {hint}") from None


async def check(api: KubeApi, namespaces: tuple[str, ...]) -> Checked:
    """Ask for each right that an operator of these namespaces uses. Raises ClusterError."""
    await require_crd(api, namespaces)
    wanted = [(right, namespace) for namespace in namespaces or ("",) for right in RIGHTS]
    if not namespaces:
        wanted += [(right, "") for right in CLUSTER_RIGHTS]
    optional = [(right, "") for right in NODE_RIGHTS]
    granted = await asyncio.gather(*(is_granted(api, *one) for one in [*wanted, *optional]))
    missing = [
        f"may not {right}{f' in namespace {namespace}' if namespace else ''}"
        for (right, namespace), is_given in zip([*wanted, *optional], granted, strict=True)
        if not is_given
    ]
    split = granted[: len(wanted)].count(False)
    return Checked(len(wanted), tuple(missing[:split]), tuple(missing[split:]))


async def is_granted(api: KubeApi, right: Right, namespace: str) -> bool:
    """Whether this operator has a right in a namespace, or in the cluster if that is empty. Anybody
    may ask that of themselves. Raises ClusterError."""
    resource, _, subresource = right.resource.partition("/")
    attributes = {
        "verb": right.verb,
        "group": right.group,
        "resource": resource,
        "subresource": subresource,
        "namespace": namespace,
    }
    answer = await api.call("POST", _REVIEWS, body=_review(attributes))
    return bool(answer["status"]["allowed"])


def _review(attributes: dict[str, str]) -> dict[str, object]:
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
