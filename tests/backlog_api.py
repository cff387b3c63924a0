"""A metrics API of Kubernetes for tests: what waits at clients, read from the replicas themselves.

Runs in a pod, with nothing but the standard library: ``backlog_api.py CERTIFICATE KEY``. It stands
where a cluster has Prometheus with an adapter, or KEDA, and gives both metrics that an autoscaler
can ask for: one number for each pod, or one for the fleet. The selector ``sampler.dev/fleet=NAME``
says which fleet; its headless Service, which pods.
"""

import json
import re
import socket
import ssl
import sys
import urllib.parse
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

METRIC: Final = "sampler_backlog_sequences"
PORT: Final = 6443
CUSTOM: Final = "custom.metrics.k8s.io/v1beta2"
EXTERNAL: Final = "external.metrics.k8s.io/v1beta1"
_MANAGE_PORT: Final = 9000
_ANSWER_SECONDS: Final = 2

_CUSTOM_PATH: Final = re.compile(rf"/apis/{CUSTOM}/namespaces/([^/]+)/pods/\*/{METRIC}")
_EXTERNAL_PATH: Final = re.compile(rf"/apis/{EXTERNAL}/namespaces/([^/]+)/{METRIC}")
_VALUE: Final = re.compile(rf"^{METRIC} (\S+)$", re.MULTILINE)
_FLEET: Final = re.compile(r"sampler\.dev/fleet=([^,]+)")

_RESOURCES: Final = {
    CUSTOM: (f"pods/{METRIC}", "MetricValueList"),
    EXTERNAL: (METRIC, "ExternalMetricValueList"),
}


def backlogs(namespace: str, fleet: str) -> dict[str, int]:
    """Sequences that wait for each replica, by the name of its pod."""
    found = {}
    try:
        told = socket.getaddrinfo(f"{fleet}-replicas.{namespace}", _MANAGE_PORT, socket.AF_INET)
    except socket.gaierror:
        return {}
    for host in {str(address[0]) for *_, address in told}:
        try:
            name = json.loads(_read(host, "/status"))["replica"]
            value = _VALUE.search(_read(host, "/metrics"))
        except OSError:
            # It has just left.
            continue
        if value is not None:
            found[name] = int(float(value[1]))
    return found


def _read(host: str, path: str) -> str:
    url = f"http://{host}:{_MANAGE_PORT}{path}"
    with urllib.request.urlopen(url, timeout=_ANSWER_SECONDS) as answer:
        text: str = answer.read().decode()
    return text


def answer(path: str, query: Mapping[str, list[str]]) -> dict[str, Any] | None:
    """What the API says at a path; None where it has nothing."""
    for version, (name, kind) in _RESOURCES.items():
        if path == f"/apis/{version}":
            resource = {
                "name": name,
                "singularName": "",
                "namespaced": True,
                "kind": kind,
                "verbs": ["get"],
            }
            listed = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version}
            return {**listed, "resources": [resource]}
    chosen = _FLEET.search("".join(query.get("labelSelector", [])))
    at = _CUSTOM_PATH.fullmatch(path) or _EXTERNAL_PATH.fullmatch(path)
    if at is None or chosen is None:
        return None
    values = backlogs(at[1], chosen[1])
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    version = CUSTOM if path.startswith(f"/apis/{CUSTOM}") else EXTERNAL
    made: dict[str, Any] = {"kind": _RESOURCES[version][1], "apiVersion": version, "metadata": {}}
    if version == EXTERNAL:
        total = str(sum(values.values()))
        item = {"metricName": METRIC, "metricLabels": {}, "timestamp": now, "value": total}
        return {**made, "items": [item]}
    pod = {"kind": "Pod", "apiVersion": "/v1", "namespace": at[1]}
    items = [
        {
            "describedObject": {**pod, "name": name},
            "metric": {"name": METRIC},
            "timestamp": now,
            "value": str(value),
        }
        for name, value in values.items()
    ]
    return {**made, "items": items}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        found = answer(urllib.parse.unquote(parts.path), urllib.parse.parse_qs(parts.query))
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}
        body = json.dumps(found or missing).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(certificate: str, key: str) -> None:
    """Serve for ever. Who asks is not looked at: this is for tests."""
    server = ThreadingHTTPServer(("", PORT), _Handler)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
