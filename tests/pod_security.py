"""The Pod Security standard ``restricted``, as rules over a pod template.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/ (Kubernetes 1.36).
"""

from collections.abc import Iterator
from typing import Any, Final

__all__ = ["violations"]

_VOLUMES: Final = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_SECCOMP: Final = ("RuntimeDefault", "Localhost")


def violations(template: dict[str, Any]) -> list[str]:
    """What is not allowed in it, one sentence each."""
    return [*_pod(template["spec"]), *_containers(template["spec"])]


def _pod(pod: dict[str, Any]) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"{field} is on"
    for volume in pod.get("volumes", ()):
        kinds = volume.keys() - {"name"}
        if len(kinds) != 1 or not kinds <= _VOLUMES:
            yield f"volume {volume['name']} is of kind {', '.join(sorted(kinds))}"
    security = pod.get("securityContext", {})
    if security.get("sysctls"):
        yield "sysctls are set"
    yield from _context("the pod", security)


def _containers(pod: dict[str, Any]) -> Iterator[str]:
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in pod.get(kind, ()):
            yield from _container(container, pod.get("securityContext", {}))


def _container(container: dict[str, Any], of_pod: dict[str, Any]) -> Iterator[str]:
    name, security = container["name"], container.get("securityContext", {})
    effective = of_pod | security
    if any("hostPort" in port for port in container.get("ports", ())):
        yield f"{name} has a host port"
    if security.get("privileged"):
        yield f"{name} is privileged"
    if security.get("allowPrivilegeEscalation") is not False:
        yield f"{name} may escalate its privileges"
    capabilities = security.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", ()):
        yield f"{name} does not drop all capabilities"
    if set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield f"{name} adds capabilities"
    if security.get("procMount", "Default") != "Default":
        yield f"{name} has another procMount"
    if effective.get("runAsNonRoot") is not True:
        yield f"{name} may run as root"
    if effective.get("seccompProfile", {}).get("type") not in _SECCOMP:
        yield f"{name} has no seccomp profile"
    yield from _context(name, security)


def _context(name: str, security: dict[str, Any]) -> Iterator[str]:
    if security.get("runAsUser") == 0:
        yield f"{name} runs as root"
    options = security.get("seLinuxOptions", {})
    if options.get("user") or options.get("role"):
        yield f"{name} sets an SELinux user or role"
    if security.get("appArmorProfile", {}).get("type", "RuntimeDefault") == "Unconfined":
        yield f"{name} runs without AppArmor"
