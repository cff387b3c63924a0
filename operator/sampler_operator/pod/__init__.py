"""The pod template: command line, environment, volumes, probes, security, and overrides."""

from .template import LAYOUTS, Layout, Template, chosen_template

__all__ = ["LAYOUTS", "Layout", "Template", "chosen_template"]
