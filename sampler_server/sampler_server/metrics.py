"""Prometheus metrics, read from the hub's own counters at scrape time: nothing is counted twice."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sampler_api.frames import ABORT, ERROR, HANDED_OVER, LENGTH, STOP

from .hub import Hub
from .websocket import Sessions

__all__ = ["HubCollector", "exposition"]

_ENDED = {
    STOP: "stop",
    LENGTH: "length",
    ABORT: "abort",
    ERROR: "error",
    HANDED_OVER: "handed_over",
}


class HubCollector(Collector):
    """What the hub, its engine and its sessions look like now."""

    def __init__(self, hub: Hub, sessions: Sessions) -> None:
        self._hub = hub
        self._sessions = sessions

    def collect(self) -> Iterable[Metric]:
        """All metric families; none before the engine has started."""
        hub = self._hub
        if not hub.is_open:
            return
        load = hub.load()
        claims = [session.claim() for session in self._sessions]
        gauges = {
            "sampler_running_sequences": ("Sequences in the engine's batch", load.running),
            "sampler_waiting_sequences": ("Sequences in the engine's queue", load.waiting),
            "sampler_slots": ("Sequences that run at once", load.slots),
            "sampler_kv_tokens_used": ("KV tokens in use", load.kv_used),
            "sampler_kv_tokens": ("KV tokens in all", load.kv_total),
            "sampler_sessions": ("Open sessions", len(claims)),
            "sampler_backlog_sequences": (
                "Sequences that wait at clients for this replica",
                sum(c.waiting[0] for c in claims),
            ),
            "sampler_backlog_tokens": (
                "Tokens that wait at clients for this replica",
                sum(c.waiting[1] for c in claims),
            ),
            "sampler_kept_streams": ("Finished sequences that wait for an ack", hub.table.kept),
            "sampler_kept_bytes": ("Bytes of finished sequences", hub.table.kept_bytes),
            "sampler_draining": ("1 while the replica leaves", int(hub.is_draining)),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=value)
        counters = hub.counters
        yield CounterMetricFamily("sampler_engine_steps", "Engine steps", value=load.steps)
        yield CounterMetricFamily(
            "sampler_generated_tokens", "Tokens that the engine made", value=counters.tokens
        )
        yield CounterMetricFamily(
            "sampler_sequences_started", "Sequences taken", value=counters.started
        )
        ended = CounterMetricFamily("sampler_sequences_ended", "Sequences ended", labels=["reason"])
        for flag, reason in _ENDED.items():
            ended.add_metric([reason], counters.ended[flag])
        yield ended


def exposition(collector: HubCollector) -> bytes:
    """The text format."""
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry)
