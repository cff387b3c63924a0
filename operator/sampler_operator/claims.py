"""Which claims the pods of a fleet share, and whether several nodes can mount them. Pure."""

from collections.abc import Iterator, Mapping
from typing import Final

from .spec import SamplerDeployment

__all__ = ["AccessModes", "shared_claims", "unshareable"]

AccessModes = tuple[str, ...]
"""Of a claim, as its spec lists them: ``ReadWriteOnce``, ..."""

_OF_SEVERAL_NODES: Final = frozenset({"ReadWriteMany", "ReadOnlyMany"})


def shared_claims(sd: SamplerDeployment) -> dict[str, str]:
    """The claims that all pods mount, by the field that names each."""
    return dict(_claims(sd))


def _claims(sd: SamplerDeployment) -> Iterator[tuple[str, str]]:
    model, has_weights = sd.spec.model, sd.spec.engine.kind != "sim"
    if model.scheme == "pvc" and has_weights:
        yield "model.uri", model.location.partition("/")[0]
    claim = model.cache.volume.persistent_volume_claim
    if claim is not None and has_weights and model.scheme == "hf":
        yield "model.cache.volume", claim.claim_name
    for number, volume in enumerate(sd.spec.lora.volumes if sd.spec.lora else ()):
        if volume.persistent_volume_claim is not None:
            yield f"lora.volumes[{number}]", volume.persistent_volume_claim.claim_name


def unshareable(
    claims: Mapping[str, str], modes: Mapping[str, AccessModes], replicas: int
) -> str | None:
    """What to tell of claims that replicas on several nodes cannot share; ``modes`` go by claim,
    and a claim that is not in it is not judged."""
    if replicas < 2:
        return None
    told = [
        f"spec.{field}: claim {claim} is {'/'.join(modes[claim])}"
        for field, claim in claims.items()
        if claim in modes and not _OF_SEVERAL_NODES.intersection(modes[claim])
    ]
    if not told:
        return None
    return (
        f"{'; '.join(told)}: {replicas} replicas can share it on one node alone; use a claim that"
        " is ReadWriteMany or ReadOnlyMany"
    )
