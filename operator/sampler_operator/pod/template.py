"""The pod template of a fleet, layout by layout.

A layout is never changed once released: pods restart when their template differs by a byte, and an
operator upgrade must restart nothing. A new layout is a new function with a new number; the former
ones stay for two releases.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from .. import names
from ..objects import Manifest, digest, key_of
from ..spec import SamplerDeployment
from .arguments import fetch_arguments, serve_arguments
from .environment import fetch_environment, server_environment
from .overrides import merged
from .volumes import Mount, mounts, of_one_mode, volumes

__all__ = ["LAYOUTS", "Layout", "Template", "chosen_template"]

Layout = Callable[[SamplerDeployment, str], Manifest]

_STARTUP_PERIOD_SECONDS: Final = 5
_USER: Final = 2000


@dataclass(frozen=True, slots=True)
class Template:
    """A built pod template, and what it was built from."""

    manifest: Manifest
    version: int
    default_image: str

    @property
    def digest(self) -> str:
        """Identity of the template."""
        return digest(self.manifest)

    def annotations(self) -> dict[str, str]:
        """What a Deployment remembers, so that the next operator can build the same again."""
        return {
            names.TEMPLATE_VERSION: str(self.version),
            names.TEMPLATE_DIGEST: self.digest,
            names.DEFAULT_IMAGE: self.default_image,
        }


def chosen_template(
    sd: SamplerDeployment,
    remembered: Mapping[str, str],
    default_image: str,
    layouts: Mapping[int, Layout],
) -> Template:
    """The template to run: the remembered layout and image as long as they still give the
    remembered digest, which means that nothing in the spec has changed; else the newest."""
    known = {str(version): version for version in layouts}
    version = known.get(remembered.get(names.TEMPLATE_VERSION, ""))
    image = remembered.get(names.DEFAULT_IMAGE, "")
    if version is not None and image:
        kept = Template(layouts[version](sd, image), version, image)
        if kept.digest == remembered.get(names.TEMPLATE_DIGEST):
            return kept
    newest = max(layouts)
    return Template(layouts[newest](sd, default_image), newest, default_image)


def _layout_1(sd: SamplerDeployment, default_image: str) -> Manifest:
    spec, key = sd.spec, key_of(sd)
    found = mounts(sd)
    image = _image(sd, default_image)
    pod: Manifest = {
        "containers": [_server(sd, image, found)],
        "volumes": volumes(found),
        "securityContext": merged(
            {
                "fsGroup": _USER,
                "fsGroupChangePolicy": "OnRootMismatch",
                "runAsGroup": _USER,
                "runAsNonRoot": True,
                "runAsUser": _USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            spec.pod_security_context or {},
        ),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": spec.termination_grace_seconds,
    }
    if spec.model.scheme == "hf" and spec.engine.kind != "sim":
        pod["initContainers"] = [_fetch(sd, image, found)]
    pod |= _scheduling(sd)
    template: Manifest = {
        "metadata": {
            "labels": {**spec.pod_metadata.labels, **names.labels(key)},
            "annotations": {
                names.MAIN_CONTAINER_ANNOTATION: names.CONTAINER,
                **spec.pod_metadata.annotations,
            },
        },
        "spec": pod,
    }
    if spec.pod_template_overrides is not None:
        template = merged(template, spec.pod_template_overrides.as_patch())
    template = _with_claims_of_one_mode(template, {each.name for each in found if each.read_only})
    # Whatever was done to them: without these labels the Deployment would not know its pods.
    return dict(merged(template, {"metadata": {"labels": names.labels(key)}}))


def _with_claims_of_one_mode(template: Manifest, ours: Collection[str]) -> Manifest:
    # Overrides may have put anything there: what is wrong the API server says.
    pod = template.get("spec")
    there = pod.get("volumes") if isinstance(pod, dict) else None
    if not isinstance(there, list) or not all(isinstance(each, dict) for each in there):
        return template
    return {**template, "spec": {**template["spec"], "volumes": of_one_mode(there, ours)}}


LAYOUTS: Final[Mapping[int, Layout]] = {1: _layout_1}
"""Builders by ``sampler.dev/template-version``."""


def _image(sd: SamplerDeployment, default_image: str) -> Manifest:
    image: Manifest = {"image": sd.spec.image or default_image}
    if sd.spec.image_pull_policy is not None:
        image["imagePullPolicy"] = sd.spec.image_pull_policy
    return image


_CONTAINER_SECURITY: Final = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


def _probe(path: str, **more: int) -> Manifest:
    return {"httpGet": {"path": path, "port": names.MANAGE_PORT_NAME}, **more}


def _server(sd: SamplerDeployment, image: Manifest, found: list[Mount]) -> Manifest:
    spec = sd.spec
    ports = [
        {"name": name, "containerPort": number, "protocol": "TCP"}
        for name, number in [
            *names.data_ports(spec.engines_per_gpu),
            (names.MANAGE_PORT_NAME, names.manage_port()),
        ]
    ]
    container: Manifest = {
        "name": names.CONTAINER,
        **image,
        "command": ["sampler"],
        "args": serve_arguments(sd),
        "env": server_environment(sd),
        "ports": ports,
        "resources": _resources(sd),
        "volumeMounts": [mount.mounted() for mount in found],
        "securityContext": dict(_CONTAINER_SECURITY),
        "startupProbe": _probe(
            "/startupz",
            periodSeconds=_STARTUP_PERIOD_SECONDS,
            timeoutSeconds=5,
            failureThreshold=max(1, spec.startup_timeout_seconds // _STARTUP_PERIOD_SECONDS),
        ),
        "readinessProbe": _probe("/readyz", periodSeconds=2, timeoutSeconds=5, failureThreshold=1),
        "livenessProbe": _probe("/livez", periodSeconds=10, timeoutSeconds=10, failureThreshold=3),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if spec.env_from:
        container["envFrom"] = list(spec.env_from)
    return container


def _fetch(sd: SamplerDeployment, image: Manifest, found: list[Mount]) -> Manifest:
    needed = [
        mount for mount in found if mount.fetch_writes or mount.name in ("tmp", "home", "cache")
    ]
    return {
        "name": names.FETCH_CONTAINER,
        **image,
        "command": ["sampler"],
        "args": fetch_arguments(sd),
        "env": fetch_environment(sd),
        "resources": _resources(sd, with_devices=False),
        "volumeMounts": [mount.mounted(read_only=False) for mount in needed],
        "securityContext": dict(_CONTAINER_SECURITY),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _resources(sd: SamplerDeployment, *, with_devices: bool = True) -> Manifest:
    given = sd.spec.resources
    requests = {name: str(value) for name, value in given.requests.items()}
    limits = {name: str(value) for name, value in given.limits.items()}
    if sd.spec.gpu_count and with_devices:
        requests[sd.spec.gpu.resource_name] = str(sd.spec.gpu_count)
        limits[sd.spec.gpu.resource_name] = str(sd.spec.gpu_count)
    return {name: part for name, part in (("requests", requests), ("limits", limits)) if part}


def _scheduling(sd: SamplerDeployment) -> Manifest:
    spec = sd.spec
    fleet = {"matchLabels": names.selector(key_of(sd))}
    candidates: Manifest = {
        "nodeSelector": dict(spec.node_selector),
        "tolerations": [
            toleration.model_dump(by_alias=True, exclude_none=True)
            for toleration in spec.tolerations
        ],
        "affinity": spec.affinity,
        "topologySpreadConstraints": [
            {"labelSelector": fleet, **constraint}
            for constraint in spec.topology_spread_constraints
        ],
        "priorityClassName": spec.priority_class_name,
        "runtimeClassName": spec.runtime_class_name,
        "schedulerName": spec.scheduler_name,
        "serviceAccountName": spec.service_account_name,
        "imagePullSecrets": [{"name": secret.name} for secret in spec.image_pull_secrets],
    }
    return {name: value for name, value in candidates.items() if value}
