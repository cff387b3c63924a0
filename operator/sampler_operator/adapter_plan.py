"""What the pods are told about adapters and bases, from the spec and what replicas reported."""

from collections.abc import Mapping

from sampler_api.fleet import AdaptersConfig, DeclaredAdapter, RequiredAdapter

from .observed import PodView
from .reports import Report
from .spec import SamplerDeployment

__all__ = ["adapters_config"]


def adapters_config(
    sd: SamplerDeployment,
    pods: tuple[PodView, ...],
    reports: Mapping[str, Report],
    known_bases: Mapping[str, str],
) -> AdaptersConfig:
    """The content of the adapters ConfigMap.

    ``required`` are the declared revisions that some ready replica holds: a joiner waits for those,
    and a broken adapter holds up nobody. Without a ready replica it stays open, so that the first
    ones decide by trying. ``bases``: the first ready replica of a template sets its base.
    """
    declared = tuple(
        DeclaredAdapter(adapter.name, adapter.path, adapter.digest)
        for adapter in (sd.spec.lora.adapters if sd.spec.lora is not None else ())
    )
    names = {adapter.name: adapter.digest for adapter in declared}
    ready = [
        report.status
        for pod in sorted(pods, key=lambda pod: (pod.created, pod.name))
        if pod.is_ready and not pod.is_leaving
        if (report := reports.get(pod.name)) is not None and report.status is not None
    ]
    held: dict[str, str] = {}
    for status in ready:
        for state in status.declared:
            if state.state == "held" and state.digest and state.name in names:
                wanted = names[state.name]
                if wanted is None or wanted == state.digest:
                    held.setdefault(state.name, state.digest)
    required = (
        tuple(sorted(RequiredAdapter(name, digest) for name, digest in held.items()))
        if ready
        else None
    )
    return AdaptersConfig(declared, required, _bases(sd, pods, reports, known_bases))


def _bases(
    sd: SamplerDeployment,
    pods: tuple[PodView, ...],
    reports: Mapping[str, Report],
    known: Mapping[str, str],
) -> dict[str, str]:
    live = {pod.template for pod in pods}
    bases = {template: base for template, base in known.items() if template in live}
    for pod in sorted(pods, key=lambda pod: (pod.created, pod.name)):
        report = reports.get(pod.name)
        if not pod.is_ready or pod.is_leaving or report is None or report.status is None:
            continue
        base = sd.spec.model.digest or report.status.base
        if base is not None and pod.template:
            bases.setdefault(pod.template, base)
    return dict(sorted(bases.items()))
