"""Everything of a kind that is ours, page by page, shown to the store of what is known."""

from collections.abc import Callable
from typing import Final

from .. import names
from ..names import Key
from .api import KubeApi
from .view import KubeView, version_of

__all__ = ["show_all"]

_PAGE: Final = "200"


async def show_all(
    api: KubeApi,
    view: KubeView,
    enqueue: Callable[[Key], None],
    kind: str,
    path: str,
    namespace: str,
) -> str:
    """List ``path``; what is known of ``namespace`` (all, if empty) and is not listed has ended.

    ``enqueue`` gets the keys with news. Returns the version of the list. Raises ClusterError.
    """
    query = {"limit": _PAGE}
    if kind != names.KIND:
        query["labelSelector"] = names.LABEL_SELECTOR
    present: set[str] = set()
    while True:
        page = await api.call("GET", path, query=query)
        for item in page["items"]:
            present.add(item["metadata"]["uid"])
            for key in view.put({**item, "kind": kind}):
                enqueue(key)
        more = page["metadata"].get("continue")
        if not more:
            break
        query["continue"] = more
    for key in view.sweep(kind, namespace, present, version_of(page)):
        enqueue(key)
    version: str = page["metadata"]["resourceVersion"]
    return version
