"""Names that more than one package uses: paths, headers, protocol versions, ports, environment
variables."""

from typing import Final

__all__: list[str] = []

PROTOCOL_VERSION: Final = 1
SUBPROTOCOL: Final = "sampler.v1"

SESSION_PATH: Final = "/v1/session"
SAMPLE_PATH: Final = "/v1/sample"
TOKENIZER_PATH: Final = "/v1/tokenizer"
ADAPTERS_PATH: Final = "/v1/adapters"
WEIGHTS_PATH: Final = "/weights"
"""On the management port."""

DATA_PORT: Final = 8000
MANAGE_PORT: Final = 9000
DATA_PORT_NAME: Final = "data"
"""Of the first engine's port in Services; those of others are ``data-1``, ``data-2``, …"""

REPLICAS_SUFFIX: Final = "-replicas"
"""Behind a fleet's name: the headless Service by which clients find its replicas."""
CLIENT_ROLE: Final = "sampler-client"
"""The ClusterRole of the chart that lets clients look for replicas."""

ENV_POD_NAME: Final = "SAMPLER_POD_NAME"
ENV_POD_NAMESPACE: Final = "SAMPLER_POD_NAMESPACE"
ENV_FLEET_NAME: Final = "SAMPLER_FLEET_NAME"
ENV_FLEET_UID: Final = "SAMPLER_FLEET_UID"
ENV_TEMPLATE_HASH: Final = "SAMPLER_TEMPLATE_HASH"
ENV_TERMINATION_LOG: Final = "SAMPLER_TERMINATION_LOG"
ENV_TOKEN: Final = "SAMPLER_TOKEN"

SHA256_PREFIX: Final = "sha256:"
