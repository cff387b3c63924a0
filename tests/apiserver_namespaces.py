"""Namespaces of an API server of tests, each with its default service account."""

from typing import Final

from tests.apiserver_client import KubeClient, RefusedError
from tests.proxy import wait_until

from sampler_operator.names import GROUP, PLURAL, VERSION

__all__ = ["NAMESPACES", "end_namespace", "make_namespace"]

NAMESPACES: Final = "namespace-controller"
"""It clears namespaces that are deleted: it looks into 60 kinds for each, which costs more than
most tests."""

_ALL: Final = "/api/v1/namespaces"


def make_namespace(client: KubeClient, name: str) -> str:
    """One in which pods can be made; its name."""
    client.post(_ALL, {"metadata": {"name": name}})
    account = f"{_ALL}/{name}/serviceaccounts/default"
    wait_until(lambda: client.exists(account), f"{account} exists")
    return name


def end_namespace(client: KubeClient, name: str) -> None:
    """It takes nothing new, and its fleets and pods go: operators and schedulers have no more to do
    with it. What else is there stays, if NAMESPACES does not run."""
    client.delete(f"{_ALL}/{name}")
    try:
        client.delete(f"/apis/{GROUP}/{VERSION}/namespaces/{name}/{PLURAL}")
    except RefusedError as refused:
        # Nobody has installed the CRD.
        if refused.code != 404:
            raise
    # No kubelet ends them, and they would hold what their nodes have.
    client.delete(f"{_ALL}/{name}/pods", {"gracePeriodSeconds": 0})
