"""What the pods are told about adapters and bases, from the spec and what replicas reported."""

from collections.abc import Mapping

import msgspec

from sampler_api.fleet import (
    ADAPTERS_FILE,
    AdaptersConfig,
    DeclaredAdapter,
    ReplicaStatus,
    RequiredAdapter,
)

from . import names
from .names import Key, Ref
from .observed import Observed, PodView
from .reports import Report
from .spec import SamplerDeployment

__all__ = ["adapters_config", "recorded"]


def recorded(key: Key, observed: Observed) -> AdaptersConfig:
    """What the pods were told last. It is the memory of a new operator, which has no reports yet.

    The status knows the bases too, and counts: nobody writes it but the operator.
    """
    child = observed.children.get(Ref("ConfigMap", names.adapters_name(key)))
    config = AdaptersConfig()
    if child is not None:
        try:
            text = child.manifest()["data"][ADAPTERS_FILE]
            config = msgspec.json.decode(text, type=AdaptersConfig)
        except (KeyError, TypeError, msgspec.DecodeError):
            pass  # changed by somebody else, and about to be written anew
    bases = (observed.sd.get("status") or {}).get("bases") or ()
    in_status = {base["template"]: base["digest"] for base in bases}
    return msgspec.structs.replace(config, bases=config.bases | in_status)


def adapters_config(
    sd: SamplerDeployment,
    pods: tuple[PodView, ...],
    reports: Mapping[str, Report],
    former: AdaptersConfig,
) -> AdaptersConfig:
    """The content of the adapters ConfigMap.

    ``required`` are the declared revisions that some ready replica holds: a joiner waits for those,
    and a broken adapter holds up nobody. Without a ready replica it stays open, so that the first
    ones decide by trying. ``bases``: the first ready replica of a template sets its base. What
    ``former`` said stays as long as a ready replica has not answered.
    """
    declared = tuple(
        DeclaredAdapter(adapter.name, adapter.path, adapter.digest)
        for adapter in (sd.spec.lora.adapters if sd.spec.lora is not None else ())
    )
    ready = [
        (pod, _status(reports.get(pod.name)))
        for pod in sorted(pods, key=lambda pod: (pod.created, pod.name))
        if pod.is_ready and not pod.is_leaving
    ]
    return AdaptersConfig(
        declared,
        _required(declared, [status for _, status in ready], former.required),
        _bases(sd, pods, ready, former.bases),
    )


def _status(report: Report | None) -> ReplicaStatus | None:
    return report.status if report is not None else None


def _required(
    declared: tuple[DeclaredAdapter, ...],
    ready: list[ReplicaStatus | None],
    former: tuple[RequiredAdapter, ...] | None,
) -> tuple[RequiredAdapter, ...] | None:
    answers = [status for status in ready if status is not None]
    if not ready or (not answers and former is None):
        return None
    held = [
        RequiredAdapter(state.name, state.digest)
        for status in answers
        for state in status.declared
        if state.state == "held" and state.digest
    ]
    is_known = len(answers) == len(ready)
    # What was required stays so in favour of another revision under the same name.
    kept = [entry for entry in former or () if entry in held or not is_known]
    wanted = {adapter.name: adapter.digest for adapter in declared}
    chosen: dict[str, RequiredAdapter] = {}
    for entry in [*kept, *held]:
        if entry.name in wanted and wanted[entry.name] in (None, entry.digest):
            chosen.setdefault(entry.name, entry)
    return tuple(sorted(chosen.values()))


def _bases(
    sd: SamplerDeployment,
    pods: tuple[PodView, ...],
    ready: list[tuple[PodView, ReplicaStatus | None]],
    former: Mapping[str, str],
) -> dict[str, str]:
    live = {pod.template for pod in pods}
    # The only replica may be gone for a moment: its template is forgotten when another one serves,
    # or when the fleet rests.
    is_over = bool(ready) or sd.spec.replicas == 0
    bases = {name: base for name, base in former.items() if name in live or not is_over}
    for pod, status in ready:
        if status is not None and status.base is not None and pod.template:
            bases.setdefault(pod.template, status.base)
    return dict(sorted(bases.items()))
