"""One pass over one SamplerDeployment: gather, decide, act. It may run at any time, any number of
times; two passes without news in between write nothing.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sampler_api.fleet import AdaptersConfig

from . import names
from .adapter_plan import adapters_config, recorded
from .errors import ClusterError, InvalidSpec, Missing, NamespaceGoing
from .gathering import Gathering
from .metrics import OperatorMetrics
from .names import Key
from .objects import Manifest, ref_of
from .observed import Observed, PodView
from .plan import BuildSettings, Plan, planned
from .ports import Cluster, Event, View
from .refusals import Attempt, Refusals
from .remakes import Remakes
from .reporter import Reporter
from .reports import Report, has_unasked
from .spec.parse import known_part
from .status import (
    Situation,
    events,
    invalid_status,
    is_same_status,
    not_understood,
    state_of,
    status,
)
from .status.withheld import with_former_adapters
from .trouble import seconds_until_stuck

__all__ = ["Reconciler"]

log = logging.getLogger(__name__)

_STATUS_SECONDS = 1.0


class Reconciler:
    """Passes of one operator. ``now`` gives the time of day, with its zone, for what is told; waits
    go by ``monotonic``, in seconds, as the time of day may be set back."""

    def __init__(
        self,
        view: View,
        cluster: Cluster,
        reporter: Reporter,
        settings: BuildSettings,
        now: Callable[[], datetime],
        metrics: OperatorMetrics,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._view = view
        self._cluster = cluster
        self._reporter = reporter
        self._settings = settings
        self._now = now
        self._metrics = metrics
        self._monotonic = monotonic
        self._gathering = Gathering(cluster, metrics, monotonic)
        self._refusals = Refusals()
        self._status_written: dict[Key, tuple[int, float]] = {}
        self._remakes = Remakes()
        self._settled: dict[Key, tuple[int | None, int]] = {}
        self._untold: dict[Key, tuple[str, ...]] = {}
        self._going: dict[Key, str] = {}
        """Those whose namespace is being deleted, by uid."""
        self._warned: dict[Key, tuple[str, int]] = {}
        """Those with unknown fields, by uid and generation."""

    async def reconcile(self, key: Key) -> float | None:
        """One pass; the seconds after which to look again, if needed. Raises Unavailable."""
        stamp = self._view.stamp(key), self._reporter.stamp(key)
        if stamp[0] is not None and self._settled.get(key) == stamp:
            return None  # the last pass saw the same, and found nothing to do
        self._settled.pop(key, None)
        observed = self._view.observed(key)
        if observed is None:
            self._forget(key)
            return None
        meta = observed.sd["metadata"]
        if meta.get("deletionTimestamp") or self._going.get(key) == meta["uid"]:
            return None  # the children go with their owner, or with their namespace
        outcome = await self._pass(key, observed)
        if not outcome.has_written and outcome.look_after is None:
            self._settled[key] = stamp
        return outcome.look_after

    def look_anew(self, key: Key) -> None:
        """The next pass looks at everything, also if nothing was seen to happen."""
        self._settled.pop(key, None)

    async def _pass(self, key: Key, observed: Observed) -> "_Outcome":
        now = self._now()
        try:
            sd, unknown = known_part(observed.sd)
        except InvalidSpec as error:
            return await self._tell(key, observed, invalid_status(observed, error, now), ())
        reports = self._reporter.reports(key, observed.pods)
        gathered = await self._gathering.gathered(key, sd, observed, now)

        config = adapters_config(sd, observed.pods, reports, recorded(key, observed))
        plan = planned(sd, observed, config, self._settings)
        if unknown:
            if plan.is_new_template:
                held = invalid_status(observed, not_understood(unknown), now)
                return await self._tell(key, observed, held, ())
            self._warn_of_unknown(key, observed, unknown)

        plan, refused = self._untried(key, plan)
        plan, later = self._due(key, observed, plan)
        attempts = await self._act(key, observed, plan)
        failures = *refused.values(), *(each.error for each in attempts.values() if each.error)
        if any(isinstance(failure, NamespaceGoing) for failure in failures):
            log.info("%s: its namespace is being deleted", key)
            self._going[key] = observed.sd["metadata"]["uid"]
            return _Outcome(has_written=True)
        self._reporter.expect(key, observed.pods, config.declared_hash)
        await self._nudge(key, observed, reports, config)
        has_written = bool(plan.applies or plan.deletes)
        if has_written:
            observed = self._view.observed(key) or observed
        situation = Situation(
            observed=observed,
            plan=plan,
            config=config,
            reports=reports,
            warnings=gathered.warnings,
            room=gathered.room,
            modes=gathered.modes,
            failures=failures,
        )
        made = status(sd, situation, now)
        if config.declared and has_unasked(observed.pods, reports):
            # The first reports bring the next pass.
            made = with_former_adapters(observed.sd.get("status") or {}, made)
        done = plan.why_of(ref for ref, attempt in attempts.items() if attempt.error is None)
        told = await self._tell(key, observed, made, done)
        for failure in failures:
            if failure.retryable:
                raise failure
        looks = [seconds_until_stuck(pod, now) for pod in observed.pods]
        looks += [told.look_after, gathered.look_after, later]
        looks += [self._refusals.wait(key, self._monotonic())]
        look_after = min((look for look in looks if look is not None), default=None)
        return _Outcome(has_written or told.has_written, look_after)

    def _warn_of_unknown(self, key: Key, observed: Observed, fields: tuple[str, ...]) -> None:
        """Once for each generation."""
        meta = observed.sd["metadata"]
        seen = meta["uid"], meta.get("generation", 0)
        if self._warned.get(key) != seen:
            self._warned[key] = seen
            change = "it changes" if len(fields) == 1 else "they change"
            said = f"this operator does not know {', '.join(fields)}: {change} nothing"
            log.warning("%s: %s", key, said)
            self._cluster.emit(observed.sd, Event("Warning", "UnknownField", said))

    def _untried(self, key: Key, plan: Plan) -> tuple[Plan, Mapping[names.Ref, ClusterError]]:
        """``plan`` without what was refused and is not to be tried again yet, and those errors."""
        held = self._refusals.held(key, plan.writes, self._monotonic())
        return plan.without(held), held

    def _due(self, key: Key, observed: Observed, plan: Plan) -> tuple[Plan, float | None]:
        """``plan`` without the children that are to wait, and the seconds until the first of them
        may be made."""
        now = self._monotonic()
        waits = {
            ref: self._remakes.wait(key, ref, now)
            for ref in map(ref_of, plan.applies)
            if ref not in observed.children
        }
        later = {ref: wait for ref, wait in waits.items() if wait > 0}
        return plan.without(later), min(later.values(), default=None)

    def _forget(self, key: Key) -> None:
        self._remakes.forget(key)
        self._warned.pop(key, None)
        self._reporter.forget(key)
        self._refusals.forget(key)
        self._status_written.pop(key, None)
        self._untold.pop(key, None)
        self._going.pop(key, None)
        self._metrics.states.pop(key, None)

    # -- act ---------------------------------------------------------------------------------------

    async def _act(self, key: Key, observed: Observed, plan: Plan) -> dict[names.Ref, Attempt]:
        if plan.details:
            log.info("%s: %s", key, "; ".join(plan.details))
        results = await asyncio.gather(
            *(
                self._apply(key, manifest, ref_of(manifest) in observed.children)
                for manifest in plan.applies
            ),
            *(self._delete(key, ref) for ref in plan.deletes),
        )
        attempts = {
            ref: Attempt(digest, error)
            for (ref, digest), error in zip(plan.writes.items(), results, strict=True)
        }
        self._refusals.tried(key, attempts, self._monotonic())
        return attempts

    async def _apply(self, key: Key, manifest: Manifest, exists: bool) -> ClusterError | None:
        try:
            child = await self._cluster.apply(manifest, force=exists)
        except ClusterError as error:
            self._metrics.failed(error)
            return error
        self._view.wrote(key, child)
        if not exists:
            self._remakes.made(key, child.ref, self._monotonic())
        self._metrics.wrote(child.ref.kind, "apply")
        return None

    async def _delete(self, key: Key, ref: names.Ref) -> ClusterError | None:
        try:
            await self._cluster.delete(key, ref)
        except ClusterError as error:
            self._metrics.failed(error)
            return error
        self._metrics.wrote(ref.kind, "delete")
        return None

    async def _nudge(
        self,
        key: Key,
        observed: Observed,
        reports: Mapping[str, Report],
        config: AdaptersConfig,
    ) -> None:
        """Touch the pods that have not taken in the adapters: their mount is refreshed at once."""
        wanted = config.declared_hash
        lagging = [pod for pod in observed.pods if _lags(pod, reports.get(pod.name), wanted)]
        if not lagging:
            return
        written = recorded(key, self._view.observed(key) or observed)
        if written.declared_hash != wanted:
            return  # it would be in vain, and a pod is touched once
        for pod in lagging:
            try:
                await self._cluster.annotate_pod(key, pod.name, {names.ADAPTERS_HASH: wanted})
                self._metrics.wrote("Pod", "annotate")
            except ClusterError as error:
                # The mount is refreshed without it too, some seconds later.
                self._metrics.failed(error)
                log.warning("%s: pod %s was not annotated: %s", key, pod.name, error)

    async def _tell(
        self, key: Key, observed: Observed, new: Manifest, details: tuple[str, ...]
    ) -> "_Outcome":
        """Write the status if it differs, not more often than once a second for one generation, and
        record what has happened as events."""
        self._metrics.states[key] = state_of(new)
        untold = (*self._untold.pop(key, ()), *details)
        old: Manifest = observed.sd.get("status") or {}
        has_news = not is_same_status(old, new)
        if has_news:
            wait = self._wait_before_status(key, observed)
            if wait > 0:
                self._untold[key] = untold
                return _Outcome(has_written=False, look_after=wait)
            meta = observed.sd["metadata"]
            self._untold[key] = untold
            try:
                written = await self._cluster.patch_status(key, meta["uid"], new)
            except Missing:
                return _Outcome(has_written=True)  # deleted meanwhile
            self._status_written[key] = meta.get("generation", 0), self._monotonic()
            self._view.wrote_sd(key, written)
            self._untold.pop(key, None)
            self._metrics.wrote(names.KIND, "status")
        for event in events(old, new, untold):
            self._cluster.emit(observed.sd, event)
        return _Outcome(has_written=has_news)

    def _wait_before_status(self, key: Key, observed: Observed) -> float:
        """Seconds until the status may be written again; a new generation need not wait."""
        generation, written = self._status_written.get(key, (None, None))
        if written is None or generation != observed.sd["metadata"].get("generation", 0):
            return 0.0
        return _STATUS_SECONDS - (self._monotonic() - written)


def _lags(pod: PodView, report: Report | None, wanted: str) -> bool:
    """It has other adapters than it should, and was not touched because of them yet."""
    if pod.is_leaving or report is None or report.status is None:
        return False
    return wanted not in (pod.adapters_hash, report.status.adapters_hash)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Of a pass: whether it wrote anything, and when time alone may call for another."""

    has_written: bool
    look_after: float | None = None
