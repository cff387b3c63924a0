"""From a SamplerDeployment and what is there to what has to be written. Pure."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from sampler_api.fleet import AdaptersConfig

from . import children, names
from .objects import Manifest, contains, digest_of, key_of, ref_of, with_digest
from .observed import ChildView, Observed
from .pod import LAYOUTS, Layout, Template, chosen_template
from .spec import SamplerDeployment

__all__ = ["BuildSettings", "Plan", "desired", "planned"]


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """What manifests depend on beside the spec: default images by engine, the operator's
    namespace, and the layouts of pod templates that this operator can build."""

    images: Mapping[str, str]
    operator_namespace: str = ""
    layouts: Mapping[int, Layout] = field(default_factory=lambda: LAYOUTS)


@dataclass(frozen=True, slots=True)
class Plan:
    """Children to apply, children to delete, and of each child why, a sentence for each
    decision."""

    template: Template
    applies: tuple[Manifest, ...] = ()
    deletes: tuple[names.Ref, ...] = ()
    why: Mapping[names.Ref, tuple[str, ...]] = field(default_factory=dict)
    is_new_template: bool = False
    """The Deployment has another pod template, or does not exist."""

    @property
    def writes(self) -> dict[names.Ref, str]:
        """What is to be written, applies first, with the digest of the manifest; a deletion has
        none."""
        applied = {ref_of(manifest): digest_of(manifest) for manifest in self.applies}
        return applied | dict.fromkeys(self.deletes, "")

    @property
    def details(self) -> tuple[str, ...]:
        """Why, a sentence for each decision."""
        return self.why_of(self.writes)

    def why_of(self, refs: Iterable[names.Ref]) -> tuple[str, ...]:
        """The sentences about these children."""
        return tuple(sentence for ref in refs for sentence in self.why[ref])

    def without(self, refs: Container[names.Ref]) -> Self:
        """What is to be written beside these."""
        applies = tuple(each for each in self.applies if ref_of(each) not in refs)
        deletes = tuple(ref for ref in self.deletes if ref not in refs)
        return replace(self, applies=applies, deletes=deletes)


def desired(
    sd: SamplerDeployment, template: Template, adapters: AdaptersConfig, settings: BuildSettings
) -> list[Manifest]:
    """Every child that should exist, what others need first."""
    wanted = [
        children.adapters_map(sd, adapters),
        children.discovery_service(sd),
        children.http_service(sd),
        children.disruption_budget(sd),
        children.network_policy(sd, settings.operator_namespace),
        children.pod_monitor(sd),
        children.deployment(sd, template),
    ]
    return [with_digest(manifest) for manifest in wanted if manifest is not None]


def planned(
    sd: SamplerDeployment,
    observed: Observed,
    adapters: AdaptersConfig,
    settings: BuildSettings,
) -> Plan:
    """Compare what should be with what is. What has another owner is not there."""
    own = {ref: c for ref, c in observed.children.items() if c.owner == sd.metadata.uid}
    present = own.get(names.Ref("Deployment", names.deployment_name(key_of(sd))))
    template = chosen_template(
        sd,
        _annotations(present),
        settings.images[sd.spec.engine.kind],
        settings.layouts,
    )
    applies: list[Manifest] = []
    why: dict[names.Ref, tuple[str, ...]] = {}
    wanted = set()
    for manifest in desired(sd, template, adapters, settings):
        ref = ref_of(manifest)
        wanted.add(ref)
        there = own.get(ref)
        if there is None:
            why[ref] = (f"create {ref}: it does not exist",)
        elif not _is_as_wanted(there, manifest):
            why[ref] = (f"apply {ref}: it differs from what the spec says",)
            if there is present:
                moves = _moves(_annotations(present), template, settings.layouts)
                why[ref] += tuple(moves)
        else:
            continue
        applies.append(manifest)
    deletes = [ref for ref in own if ref not in wanted]
    why |= {ref: (f"delete {ref}: the spec does not want it",) for ref in deletes}
    return Plan(
        template,
        tuple(applies),
        tuple(deletes),
        why,
        is_new_template=_annotations(present).get(names.TEMPLATE_DIGEST) != template.digest,
    )


def _moves(
    remembered: Mapping[str, str], template: Template, layouts: Mapping[int, Layout]
) -> list[str]:
    """What beside the spec changes the pods."""
    moves = []
    now = str(template.version)
    former = remembered.get(names.TEMPLATE_VERSION, now)
    image = remembered.get(names.DEFAULT_IMAGE, template.default_image)
    if former != now:
        is_known = former in {str(version) for version in layouts}
        unknown = "" if is_known else ", which this operator does not know,"
        moves.append(f"pods go from layout {former}{unknown} to layout {now}")
    if image != template.default_image:
        moves.append(f"the default image goes from {image} to {template.default_image}")
    return moves


def _annotations(child: ChildView | None) -> Mapping[str, str]:
    """What a child remembers."""
    found: Mapping[str, str] = (
        child.manifest()["metadata"].get("annotations") or {} if child is not None else {}
    )
    return found


def _is_as_wanted(present: ChildView, wanted: Manifest) -> bool:
    if present.applied == digest_of(wanted):
        return True  # whatever the API server, or a webhook, made of it
    said = {name: part for name, part in wanted.items() if name not in ("apiVersion", "kind")}
    return contains(present.manifest(), said)
