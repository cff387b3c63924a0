"""What the operator tells Prometheus of itself."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from .names import Key

__all__ = ["OperatorMetrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class OperatorMetrics:
    """Counters of one operator; ``states`` maps each SamplerDeployment to its state."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.states: dict[Key, str] = {}
        self.queue_depth: Callable[[], int] = lambda: 0
        self._passes = Counter(
            "sampler_operator_reconciles_total",
            "Passes over SamplerDeployments, by result (ok, error).",
            ["result"],
            registry=registry,
        )
        self._seconds = Histogram(
            "sampler_operator_reconcile_seconds",
            "Duration of passes.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._writes = Counter(
            "sampler_operator_writes_total",
            "Objects written, by kind and verb (apply, delete, status, annotate).",
            ["kind", "verb"],
            registry=registry,
        )
        self._errors = Counter(
            "sampler_operator_errors_total",
            "Failed calls and passes, by class of the error.",
            ["error"],
            registry=registry,
        )
        self._dropped = Counter(
            "sampler_operator_events_dropped_total",
            "Events that were not recorded because too many waited.",
            registry=registry,
        )
        registry.register(_Gauges(self))

    def passed(self, seconds: float, error: BaseException | None) -> None:
        """A pass has ended."""
        self._passes.labels("ok" if error is None else "error").inc()
        self._seconds.observe(seconds)
        if error is not None:
            self.failed(error)

    def failed(self, error: BaseException) -> None:
        """A call has failed."""
        self._errors.labels(type(error).__name__).inc()

    def dropped_event(self) -> None:
        """An event was not recorded."""
        self._dropped.inc()

    def wrote(self, kind: str, verb: str) -> None:
        """An object was written."""
        self._writes.labels(kind, verb).inc()


class _Gauges(Collector):
    def __init__(self, metrics: OperatorMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Read at each scrape."""
        depth = GaugeMetricFamily(
            "sampler_operator_queue_depth", "SamplerDeployments that wait for a pass."
        )
        depth.add_metric([], self._metrics.queue_depth())
        yield depth
        states = GaugeMetricFamily(
            "sampler_operator_deployments", "SamplerDeployments by state.", labels=["state"]
        )
        tally: Mapping[str, int] = Tally(self._metrics.states.values())
        for state, count in sorted(tally.items()):
            states.add_metric([state], count)
        yield states
