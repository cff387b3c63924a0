"""The client of sampling fleets."""

from sampler_core.template import Template

from sampler_api.params import SamplingParams

from .remote import RemoteSampler
from .settings import ClientSettings

__all__ = ["ClientSettings", "RemoteSampler", "SamplingParams", "Template"]
