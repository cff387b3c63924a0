"""What guards and watches a fleet: disruption budget, network policy, pod monitor."""

from .. import names
from ..objects import Manifest, key_of, metadata
from ..spec import SamplerDeployment

__all__ = ["disruption_budget", "network_policy", "pod_monitor"]

_NAMESPACE_LABEL = "kubernetes.io/metadata.name"


def disruption_budget(sd: SamplerDeployment) -> Manifest | None:
    """Evictions take few replicas at a time; replicas that are not ready are never protected."""
    key, budget = key_of(sd), sd.spec.disruption_budget
    if not budget.enabled:
        return None
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(sd, key.name),
        "spec": {
            "maxUnavailable": budget.max_unavailable,
            "selector": {"matchLabels": names.selector(key)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def network_policy(sd: SamplerDeployment, operator_namespace: str) -> Manifest | None:
    """Data port: the given peers and the fleet itself. Management port: operator, monitoring."""
    key, policy = key_of(sd), sd.spec.network_policy
    if not policy.enabled:
        return None
    watchers = sorted({operator_namespace, *policy.monitoring_namespaces} - {""})
    data = [
        {"port": number, "protocol": "TCP"}
        for _, number in names.data_ports(sd.spec.engines_per_gpu)
    ]
    fleet = {"podSelector": {"matchLabels": names.selector(key)}}
    rules: list[Manifest] = [{"from": [*policy.from_, fleet], "ports": data}]
    if watchers:
        peers = [
            {"namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: name}}} for name in watchers
        ]
        manage = [{"port": names.manage_port(), "protocol": "TCP"}]
        rules.append({"from": peers, "ports": manage})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(sd, key.name),
        "spec": {
            "podSelector": {"matchLabels": names.selector(key)},
            "policyTypes": ["Ingress"],
            "ingress": rules,
        },
    }


def pod_monitor(sd: SamplerDeployment) -> Manifest | None:
    """Tells the Prometheus operator to scrape the management port of every replica."""
    key, monitor = key_of(sd), sd.spec.monitoring.pod_monitor
    if monitor is None:
        return None
    meta = metadata(sd, key.name)
    meta["labels"] = {**monitor.labels, **meta["labels"]}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": meta,
        "spec": {
            "selector": {"matchLabels": names.selector(key)},
            "podMetricsEndpoints": [
                {"port": names.MANAGE_PORT_NAME, "path": "/metrics", "interval": monitor.interval}
            ],
        },
    }
