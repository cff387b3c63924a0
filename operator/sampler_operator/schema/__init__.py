"""From the models of the custom resource to what an API server is given."""

from .crd import crd
from .structural import structural

__all__ = ["crd", "structural"]
