"""The custom resource ``SamplerDeployment`` as models: the one source of its schema."""

from .base import Rule, SpecModel
from .deployment import SamplerDeployment, SamplerDeploymentSpec

__all__ = ["Rule", "SamplerDeployment", "SamplerDeploymentSpec", "SpecModel"]
