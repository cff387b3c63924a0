"""Pods pass restricted Pod Security, unless the user asks for what it forbids."""

from typing import Any

import pytest
from tests.golden_templates import GOLDEN, Golden
from tests.pod_security import violations
from tests.spec_cases import MINIMAL, VOLUME, changed, manifest

from sampler_operator.pod import LAYOUTS
from sampler_operator.spec.parse import parse


@pytest.mark.parametrize("golden", GOLDEN, ids=str)
def test_a_pod_is_restricted(golden: Golden) -> None:
    assert violations(golden.template) == []


def server(**security: Any) -> dict[str, Any]:
    return {"containers": [{"name": "server", "securityContext": security}]}


FORBIDDEN: dict[str, tuple[dict[str, Any], str]] = {
    "the host's network": ({"hostNetwork": True}, "hostNetwork is on"),
    "the host's processes": ({"hostPID": True}, "hostPID is on"),
    "kernel settings": ({"securityContext": {"sysctls": [{"name": "a"}]}}, "sysctls are set"),
    "root": ({"securityContext": {"runAsUser": 0}}, "the pod runs as root"),
    "a container's root": (server(runAsUser=0), "server runs as root"),
    "perhaps root": ({"securityContext": {"runAsNonRoot": None}}, "server may run as root"),
    "a container's perhaps root": (server(runAsNonRoot=False), "server may run as root"),
    "no seccomp": ({"securityContext": {"seccompProfile": None}}, "server has no seccomp profile"),
    "unconfined seccomp": (
        server(seccompProfile={"type": "Unconfined"}),
        "server has no seccomp profile",
    ),
    "privilege": (server(privileged=True), "server is privileged"),
    "escalation": (
        server(allowPrivilegeEscalation=None),
        "server may escalate its privileges",
    ),
    "capabilities": (
        server(capabilities={"drop": ["KILL"]}),
        "server does not drop all capabilities",
    ),
    "more capabilities": (server(capabilities={"add": ["BPF"]}), "server adds capabilities"),
    "no AppArmor": (server(appArmorProfile={"type": "Unconfined"}), "server runs without AppArmor"),
    "an SELinux role": (
        server(seLinuxOptions={"role": "a"}),
        "server sets an SELinux user or role",
    ),
    "bare /proc": (server(procMount="Unmasked"), "server has another procMount"),
    "a host port": (
        {"containers": [{"name": "server", "ports": [{"containerPort": 8000, "hostPort": 1}]}]},
        "server has a host port",
    ),
    "a sidecar without a context": (
        {"containers": [{"name": "sidecar"}]},
        "sidecar may escalate its privileges",
    ),
    "a directory of the node": (
        {"volumes": [{"name": "a", "hostPath": {"path": "/"}}]},
        "volume a is of kind hostPath",
    ),
}


@pytest.mark.parametrize(("pod", "sentence"), FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_the_rules_find(pod: dict[str, Any], sentence: str) -> None:
    spec = changed(MINIMAL, {"podTemplateOverrides": {"spec": pod}})
    assert sentence in violations(LAYOUTS[1](parse(manifest(spec)), "a"))


@pytest.mark.parametrize(
    "source",
    [{"hostPath": {"path": "/mnt"}}, {"nfs": {"server": "a", "path": "/"}}],
    ids=["a directory of the node", "an NFS export"],
)
def test_volumes_that_their_fields_call_forbidden_are(source: dict[str, Any]) -> None:
    volume = {name: VOLUME[name] for name in ("name", "mountPath")} | source
    spec = changed(MINIMAL, {"lora": {"volumes": [volume]}})
    [sentence] = violations(LAYOUTS[1](parse(manifest(spec)), "a"))
    assert sentence == f"volume lora-{VOLUME['name']} is of kind {next(iter(source))}"
