"""Which base model is served, and where its files are kept."""

import re
from typing import Final

from pydantic import Field

from .base import Rule, SpecModel
from .volumes import SecretKeyRef, VolumeSource

__all__ = ["ModelCache", "ModelSpec"]

_UNCLEAN: Final = "^(pvc|file)://.*(/[.]{0,2}/|/[.]{1,2}$)"


class ModelCache(SpecModel):
    """Where downloaded models are kept."""

    volume: VolumeSource = Field(
        default_factory=lambda: VolumeSource.model_validate({"emptyDir": {}})
    )
    """Volume of the cache. The default is an emptyDir: every pod downloads the model anew."""


class ModelSpec(SpecModel):
    """The base model."""

    uri: str = Field(pattern="^(hf|pvc|file|sim)://[^ ]+$", max_length=512)
    """``hf://owner/name`` is downloaded, ``pvc://claim/path`` is read from a claim,
    ``file:///path`` is a directory inside the container, ``sim://name`` names a model of the sim
    engine."""
    revision: str | None = Field(default=None, min_length=1, max_length=128)
    """Branch, tag or commit of an ``hf://`` model; the repository's default branch if left out."""
    digest: str | None = Field(default=None, pattern="^sha256:[0-9a-f]{64}$", max_length=71)
    """Content digest that the loaded weights must have. If left out, the first ready replica of
    each pod template sets it for the others."""
    name: str | None = Field(default=None, min_length=1, max_length=253)
    """Name that clients see; by default the uri without its scheme."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Leave it off unless you have read that code.
    ``engine.sim`` runs none."""
    token_secret_ref: SecretKeyRef | None = None
    """Access token for the model hub, given to the download of an ``hf://`` model; others need and
    use none."""
    cache: ModelCache = Field(default_factory=ModelCache)
    """Cache of downloads of ``hf://`` models; others are not downloaded, and leave it alone."""

    rules = (
        Rule(
            cel="!has(self.revision) || self.uri.startsWith('hf://')",
            message="only an hf:// model has revisions; remove it or use an hf:// uri",
            holds=lambda model: model.revision is None or model.uri.startswith("hf://"),
            field="revision",
        ),
        Rule(
            cel="!self.uri.startsWith('hf://') || self.uri.matches('^hf://[^/]+/[^/]+$')",
            message="an hf:// model is hf://owner/name; the revision has a field of its own",
            holds=lambda model: (
                not model.uri.startswith("hf://")
                or re.fullmatch("hf://[^/]+/[^/]+", model.uri) is not None
            ),
            field="uri",
        ),
        Rule(
            cel="!self.uri.startsWith('pvc:///')",
            message="a pvc:// model is pvc://claim/path; the claim's name is missing",
            holds=lambda model: not model.uri.startswith("pvc:///"),
            field="uri",
        ),
        Rule(
            cel=f"!self.uri.matches('{_UNCLEAN}')",
            message="must be a path without //, /./ and /../; write where it leads",
            holds=lambda model: re.search(_UNCLEAN, model.uri) is None,
            field="uri",
        ),
        Rule(
            cel="!self.uri.startsWith('file://') || self.uri.startsWith('file:///')",
            message="a file:// model is an absolute path, file:///models/name",
            holds=lambda model: (
                not model.uri.startswith("file://") or model.uri.startswith("file:///")
            ),
            field="uri",
        ),
    )

    @property
    def scheme(self) -> str:
        """``hf``, ``pvc``, ``file`` or ``sim``."""
        return self.uri.partition("://")[0]

    @property
    def location(self) -> str:
        """The uri behind its scheme."""
        return self.uri.partition("://")[2]

    @property
    def served_name(self) -> str:
        """The name that clients see."""
        return self.name or self.location.strip("/")
