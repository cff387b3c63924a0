"""The client of sampling fleets."""

from sampler_api.params import SamplingParams
from sampler_core.template import Template

from .remote import RemoteSampler
from .settings import ClientSettings

__all__ = ["ClientSettings", "RemoteSampler", "SamplingParams", "Template"]
