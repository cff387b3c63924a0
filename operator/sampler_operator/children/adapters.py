"""The ConfigMap that tells pods which adapters to hold and which base to have."""

import msgspec

from sampler_api.fleet import ADAPTERS_FILE, AdaptersConfig

from .. import names
from ..objects import Manifest, key_of, metadata
from ..spec import SamplerDeployment

__all__ = ["adapters_map"]

_encoder = msgspec.json.Encoder(order="deterministic")


def _text(config: AdaptersConfig) -> str:
    return _encoder.encode(config).decode()


def adapters_map(sd: SamplerDeployment, config: AdaptersConfig) -> Manifest:
    """Mounted as a directory into every pod; its content is no part of the pod template."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(sd, names.adapters_name(key_of(sd))),
        "data": {ADAPTERS_FILE: _text(config)},
    }
