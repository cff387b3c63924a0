"""The CRD of SamplerDeployment in an API server of tests."""

from tests.apiserver import ApiServer
from tests.apiserver_client import RefusedError
from tests.proxy import wait_until

from sampler_operator.names import GROUP, PLURAL, VERSION
from sampler_operator.schema import crd

__all__ = ["install_crd", "sampler_path"]


def sampler_path(namespace: str, name: str = "", part: str = "") -> str:
    """Where the API server has SamplerDeployments, one of them, or its status or scale."""
    path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"
    return "/".join(filter(None, (path, name, part)))


def install_crd(server: ApiServer) -> None:
    """Apply the CRD; returns when its objects can be made."""
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{PLURAL}.{GROUP}"
    server.client.apply(path, crd())

    def is_served() -> bool:
        try:
            return server.client.items(sampler_path("default")) is not None
        except RefusedError as refused:
            # Unknown at first, then "storage is (re)initializing".
            if refused.code not in (404, 429):
                raise
            return False

    wait_until(is_served, "the API server serves SamplerDeployments")
