"""What the operator does at the API server: the chart's roles grant exactly this. Pure."""

from typing import Final, NamedTuple

from .. import names
from .resources import CHILDREN

__all__ = ["CLUSTER_RIGHTS", "NODE_RIGHTS", "RIGHTS", "Right"]


class Right(NamedTuple):
    """A verb on a resource, which may be a subresource: ``samplerdeployments/status``."""

    verb: str
    group: str
    resource: str

    def __str__(self) -> str:
        where = f" of {self.group}" if self.group else ""
        return f"{self.verb} {self.resource}{where}"


def _rights(group: str, resource: str, verbs: str) -> list[Right]:
    return [Right(verb, group, resource) for verb in verbs.split()]


RIGHTS: Final = (
    *_rights(names.GROUP, names.PLURAL, "list watch"),
    *_rights(names.GROUP, f"{names.PLURAL}/status", "patch"),
    # A child that blocks the deletion of its owner; asked for by an admission plugin only.
    *_rights(names.GROUP, f"{names.PLURAL}/finalizers", "update"),
    *_rights("", "pods", "list watch patch"),
    *_rights("", "events", "list create patch"),
    *_rights("", "persistentvolumeclaims", "get"),
    *(
        right
        for child in CHILDREN.values()
        # Server-side apply of what does not exist is a patch that must be allowed to create.
        for right in _rights(child.group, child.plural, "list watch create patch delete")
    ),
)
"""In every namespace that is served."""

CLUSTER_RIGHTS: Final = (
    *_rights("apiextensions.k8s.io", "customresourcedefinitions", "list watch"),
)
"""In the cluster, where all namespaces are served: kinds that are installed later are noticed."""

NODE_RIGHTS: Final = (*_rights("", "nodes", "list"), *_rights("", "pods", "list"))
"""In the cluster, and optional: how many devices are free."""
