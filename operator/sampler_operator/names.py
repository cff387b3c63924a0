"""Every name that the operator gives: objects, labels, annotations, ports, paths, field manager."""

from typing import Final, NamedTuple

from sampler_api.names import DATA_PORT, DATA_PORT_NAME, MANAGE_PORT, REPLICAS_SUFFIX

GROUP: Final = "sampler.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "SamplerDeployment"
PLURAL: Final = "samplerdeployments"
SINGULAR: Final = "samplerdeployment"
SHORT_NAME: Final = "sd"

FIELD_MANAGER: Final = "sampler-operator"

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_SELECTOR: Final = f"{MANAGED_BY}={FIELD_MANAGER}"
"""What is ours; asked for of the API server, which keeps everything else from us."""
FLEET_LABEL: Final = f"{GROUP}/fleet"
"""Name of the SamplerDeployment, on every child and pod; alone it selects the pods."""
TEMPLATE_HASH_LABEL: Final = "pod-template-hash"

DIGEST: Final = f"{GROUP}/digest"
"""Digest of a child's manifest as it was applied."""
TEMPLATE_VERSION: Final = f"{GROUP}/template-version"
TEMPLATE_DIGEST: Final = f"{GROUP}/template-digest"
DEFAULT_IMAGE: Final = f"{GROUP}/default-image"
ADAPTERS_HASH: Final = f"{GROUP}/adapters-hash"
MAIN_CONTAINER_ANNOTATION: Final = "kubectl.kubernetes.io/default-container"

CONTAINER: Final = "server"
FETCH_CONTAINER: Final = "fetch-model"
MANAGE_PORT_NAME: Final = "manage"

ADAPTERS_DIR: Final = "/etc/sampler/adapters"
STORE_DIR: Final = "/var/lib/sampler/adapters"
TOKEN_DIR: Final = "/etc/sampler/tokens"
TLS_DIR: Final = "/etc/sampler/tls"
MODEL_DIR: Final = "/models/model"
CACHE_DIR: Final = "/models/cache"
LINK_DIR: Final = "/models/link"
HOME_DIR: Final = "/home/sampler"
RUNTIME_CACHE_DIR: Final = "/var/cache/sampler"


class Key(NamedTuple):
    """Which SamplerDeployment."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Ref(NamedTuple):
    """Which child: kind and name, in the namespace of its owner."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def deployment_name(key: Key) -> str:
    """The Deployment of the replicas; also the Service for people."""
    return key.name


def service_name(key: Key) -> str:
    """The ClusterIP Service for people and plain HTTP."""
    return key.name


def discovery_name(key: Key) -> str:
    """The headless Service by which clients find every replica."""
    return f"{key.name}{REPLICAS_SUFFIX}"


def adapters_name(key: Key) -> str:
    """The ConfigMap of declared adapters."""
    return f"{key.name}-adapters"


def selector(key: Key) -> dict[str, str]:
    """What selects the pods of a fleet; it never changes."""
    return {FLEET_LABEL: key.name}


def labels(key: Key) -> dict[str, str]:
    """Labels of every child and pod."""
    return {
        "app.kubernetes.io/component": "server",
        "app.kubernetes.io/instance": key.name,
        MANAGED_BY: FIELD_MANAGER,
        "app.kubernetes.io/name": "sampler",
        FLEET_LABEL: key.name,
    }


def data_port_name(engine: int) -> str:
    """Name of the data port of the n-th engine of a pod."""
    return DATA_PORT_NAME if engine == 0 else f"{DATA_PORT_NAME}-{engine}"


def data_ports(engines: int) -> list[tuple[str, int]]:
    """Names and numbers of a pod's data ports."""
    return [(data_port_name(engine), DATA_PORT + engine) for engine in range(engines)]


def manage_port() -> int:
    """Number of a pod's management port."""
    return MANAGE_PORT
