"""Identity of weights: which base and which adapter made a token.

Pure data; how digests are computed stands in ``sampler_core.adapters`` and
``sampler_core.bases``.
"""

from typing import Literal

import msgspec

__all__ = ["AdapterRevision", "InFlight", "Revision"]

InFlight = Literal["finish", "abort", "continue"]
"""What becomes of sequences that run when base weights are replaced: they end on the old weights
before the change, they end at once with RevisionGone and what they have, or they go on from their
tokens on the new weights."""


class Revision(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The weights of a sample: base digest and adapter digest (``None``: the base alone), both
    ``sha256:…``."""

    base: str
    adapter: str | None = None

    def __str__(self) -> str:
        short = self.base[:19]
        return f"{short}+{self.adapter[:19]}" if self.adapter else short


class AdapterRevision(msgspec.Struct, frozen=True):
    """What ``add_adapter_to_model`` returns: an alias of the caller bound to immutable bytes.

    ``generation`` grows with each switch of the alias.
    """

    name: str
    digest: str
    generation: int = 0
    path: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}"
