"""The Services of a fleet: one for clients that look at every replica, one for people."""

from .. import names
from ..objects import Manifest, key_of, metadata
from ..spec import SamplerDeployment

__all__ = ["discovery_service", "http_service"]


def discovery_service(sd: SamplerDeployment) -> Manifest:
    """Headless: its EndpointSlices and DNS records are the replicas."""
    service = _service(sd, names.discovery_name(key_of(sd)), sd.spec.engines_per_gpu)
    service["spec"]["clusterIP"] = "None"
    if sd.spec.tls is not None:
        for port in service["spec"]["ports"]:
            # EndpointSlices repeat it, and clients learn from them to speak TLS.
            port["appProtocol"] = "https"
    return service


def http_service(sd: SamplerDeployment) -> Manifest:
    """One address for plain HTTP; each connection goes to some replica's first engine."""
    return _service(sd, names.service_name(key_of(sd)), 1)


def _service(sd: SamplerDeployment, name: str, engines: int) -> Manifest:
    key = key_of(sd)
    ports = [
        {"name": port_name, "port": number, "targetPort": port_name, "protocol": "TCP"}
        for port_name, number in names.data_ports(engines)
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(sd, name),
        "spec": {"type": "ClusterIP", "selector": names.selector(key), "ports": ports},
    }
