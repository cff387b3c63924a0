"""Environment variables of a pod: who it is, where it may write, and the user's own."""

from sampler_api.names import (
    ENV_FLEET_NAME,
    ENV_FLEET_UID,
    ENV_POD_NAME,
    ENV_POD_NAMESPACE,
    ENV_TEMPLATE_HASH,
)

from .. import names
from ..objects import Manifest
from ..spec import SamplerDeployment

__all__ = ["fetch_environment", "server_environment"]

_WRITABLE = {
    "HOME": names.HOME_DIR,
    "HF_HOME": f"{names.RUNTIME_CACHE_DIR}/huggingface",
    "LOGNAME": "sampler",
    "TMPDIR": "/tmp",
    "TORCHINDUCTOR_CACHE_DIR": f"{names.RUNTIME_CACHE_DIR}/inductor",
    "TRITON_CACHE_DIR": f"{names.RUNTIME_CACHE_DIR}/triton",
    "USER": "sampler",
    "VLLM_CACHE_ROOT": f"{names.RUNTIME_CACHE_DIR}/vllm",
    "VLLM_RPC_BASE_PATH": "/tmp",
    "XDG_CACHE_HOME": names.RUNTIME_CACHE_DIR,
}


def _field(name: str, path: str) -> Manifest:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def server_environment(sd: SamplerDeployment) -> list[Manifest]:
    """Ours sorted by name, then the user's in their order; theirs win."""
    ours = [
        {"name": name, "value": value}
        for name, value in {
            **_WRITABLE,
            "HF_HUB_OFFLINE": "1",
            ENV_FLEET_NAME: sd.metadata.name,
            ENV_FLEET_UID: sd.metadata.uid,
        }.items()
    ]
    ours += [
        _field(ENV_POD_NAME, "metadata.name"),
        _field(ENV_POD_NAMESPACE, "metadata.namespace"),
        _field(ENV_TEMPLATE_HASH, f"metadata.labels['{names.TEMPLATE_HASH_LABEL}']"),
    ]
    theirs = [
        variable.model_dump(by_alias=True, exclude_none=True, mode="json")
        for variable in sd.spec.env
    ]
    taken = {variable["name"] for variable in theirs}
    ours = sorted((v for v in ours if v["name"] not in taken), key=lambda v: str(v["name"]))
    return [*ours, *theirs]


def fetch_environment(sd: SamplerDeployment) -> list[Manifest]:
    """Environment of the download, the only place that gets the hub's token."""
    variables: list[Manifest] = [
        {"name": name, "value": value} for name, value in sorted(_WRITABLE.items())
    ]
    ref = sd.spec.model.token_secret_ref
    if ref is not None:
        secret = {"secretKeyRef": {"name": ref.name, "key": ref.key}}
        variables.append({"name": "HF_TOKEN", "valueFrom": secret})
    return variables
