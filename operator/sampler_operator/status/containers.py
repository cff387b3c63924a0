"""Why a container does not run, from what the kubelet says of it."""

import re
from signal import SIGKILL, SIGTERM
from typing import Final

from .. import names
from ..observed import ContainerView, PodView
from ..spec import SamplerDeployment
from .fault import Fault, Gravity, last_line, shortened
from .reasons import Reason

__all__ = ["container_fault", "missing_object", "other_base"]

_IMAGE_REASONS: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ImageInspectError",
        "InvalidImageName",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
_CREATION_REASONS: Final = frozenset(
    {
        "CreateContainerConfigError",
        "CreateContainerError",
        "PostStartHookError",
        "PreCreateHookError",
        "PreStartHookError",
        "RunContainerError",
    }
)
_LASTING_REASONS: Final = frozenset({"CreateContainerConfigError", "RunContainerError"})
"""The others may come of a busy node."""
_NEVER: Final = "ErrImageNeverPull"
_STUCK_RESTARTS: Final = 3
"""What ended so often without ever serving ends again."""

_ENDED_BY_KUBELET: Final = frozenset({0, 128 + SIGTERM, 128 + SIGKILL})
"""How a server ends that was told to; 0 if it could listen to that."""
_CLOCK_SECONDS: Final = 10.0
"""A period of the startup probe, and what times in whole seconds leave out."""

_BACK_OFF: Final = re.compile(r'^Back-off pulling image "[^"]*":? ?(\w+: )?')
_RPC: Final = re.compile(r"rpc error: code = \w+ desc = ")
_IMAGE: Final = re.compile(r'image (?:tag )?"([^"]+)"|image pull failed for (\S+)')
_ABSENT: Final = re.compile(
    r'(?P<kind>secret|configmap) "(?P<name>[^"]+)" not found'
    r"|couldn't find key (?P<key>\S+) in (?P<of>Secret|ConfigMap) (?:[^/\s]+/)?(?P<holder>\S+)",
    re.IGNORECASE,
)
_KINDS: Final = {"secret": "Secret", "configmap": "ConfigMap"}
_OTHER_BASE: Final = re.compile(r"base sha256:[0-9a-f]+ differs from .+")

_DENIED: Final = ("unauthorized", "denied", "authentication required", "403 Forbidden")
_ABSENT_IMAGE: Final = ("not found", "manifest unknown", "name unknown")


def container_fault(pod: PodView, sd: SamplerDeployment) -> Fault | None:
    """The fault of the first container that does not run; init containers come first."""
    for container in pod.containers:
        fault = _waiting_fault(container, sd) or _ended_fault(container, sd)
        if fault is not None:
            reason, message, gravity = fault
            return Fault(reason, message, gravity, pod.name)
    return None


_Told = tuple[Reason, str, Gravity]


def _waiting_fault(container: ContainerView, sd: SamplerDeployment) -> _Told | None:
    reason, message = container.waiting_reason, container.waiting_message
    if reason == _NEVER:
        said = "is not on the node and imagePullPolicy is Never; load it there or change the policy"
        return Reason.IMAGE_NEVER_PULL, f"image {_image(message, sd)} {said}", Gravity.STUCK
    if reason in _IMAGE_REASONS:
        return _image_fault(reason, message, sd)
    if reason not in _CREATION_REASONS:
        return None
    absent = missing_object(message)
    if absent:
        said = f"{absent} in namespace {sd.metadata.namespace}; create it"
        return Reason.MISSING_CONFIG, said, Gravity.STUCK
    text = shortened(_RPC.sub("", message)) or reason
    gravity = Gravity.STUCK if reason in _LASTING_REASONS else Gravity.HEALING
    return Reason.CONTAINER_FAILED, f"container {container.name} cannot start: {text}", gravity


def _image_fault(reason: str, message: str, sd: SamplerDeployment) -> _Told:
    # Pulling and backing off alternate; the message is the same for both.
    image = _image(message, sd)
    text = shortened(_RPC.sub("", _BACK_OFF.sub("", message)))
    said = f"image {image} cannot be pulled" + (f": {text}" if text else "")
    if reason == "InvalidImageName":
        return Reason.IMAGE_PULL, f"{said}; correct spec.image", Gravity.STUCK
    if any(part in text for part in _DENIED):
        return Reason.IMAGE_PULL, f"{said}; check spec.image and imagePullSecrets", Gravity.STUCK
    if any(part in text for part in _ABSENT_IMAGE):
        return Reason.IMAGE_PULL, f"{said}; check spec.image", Gravity.STUCK
    said += "; check spec.image, and whether nodes reach its registry"
    return Reason.IMAGE_PULL, said, Gravity.HEALING


def _image(message: str, sd: SamplerDeployment) -> str:
    found = _IMAGE.search(message)
    return (found[1] or found[2]) if found else sd.spec.image or "of the server"


def missing_object(message: str) -> str:
    """What a container or mount asks for and does not find: ``Secret x does not exist``; empty if
    that is not what the message says."""
    found = _ABSENT.search(message)
    if found is None:
        return ""
    if found["key"]:
        return f"{found['of']} {found['holder']} has no key {found['key']}"
    return f"{_KINDS[found['kind'].lower()]} {found['name']} does not exist"


def other_base(text: str) -> str:
    """What a replica says when it must not serve its base; empty when it says something else."""
    found = _OTHER_BASE.search(text)
    return shortened(found[0]) if found else ""


def _ended_fault(container: ContainerView, sd: SamplerDeployment) -> _Told | None:
    if container.ended_code is None or container.is_ready:
        return None
    if container.is_init and container.ended_code == 0:
        return None
    if container.is_running and (container.is_started or not container.restarts):
        return None
    gravity = Gravity.STUCK if container.restarts >= _STUCK_RESTARTS else Gravity.HEALING
    if container.ended_reason == "OOMKilled":
        return Reason.OUT_OF_MEMORY, _out_of_memory(container, sd), gravity
    said = last_line(container.ended_message)
    base = other_base(said)
    if base:
        return Reason.MODEL_MISMATCH, f"{base}; correct model.digest or model.uri", Gravity.STUCK
    if _has_missed_its_start(container, sd):
        return Reason.ENGINE_START_FAILED, _late(sd, said), gravity
    text = said or f"ended with exit code {container.ended_code} and without a message"
    if container.name == names.FETCH_CONTAINER:
        return Reason.FETCH_FAILED, f"the model cannot be fetched: {text}", gravity
    if container.name == names.CONTAINER:
        return Reason.ENGINE_START_FAILED, text, gravity
    return Reason.CONTAINER_FAILED, f"container {container.name}: {text}", gravity


def _has_missed_its_start(container: ContainerView, sd: SamplerDeployment) -> bool:
    """The kubelet ended it because its startup probe had failed for too long. Nothing in a pod's
    status says so: what tells is that it was ended, and when."""
    if container.name != names.CONTAINER or container.ran_seconds is None:
        return False
    timeout, grace = sd.spec.startup_timeout_seconds, sd.spec.termination_grace_seconds
    is_due = timeout - _CLOCK_SECONDS <= container.ran_seconds <= timeout + grace + _CLOCK_SECONDS
    return is_due and container.ended_code in _ENDED_BY_KUBELET


def _late(sd: SamplerDeployment, said: str) -> str:
    timeout = sd.spec.startup_timeout_seconds
    advice = "raise it, or see in kubectl logs --previous what takes so long"
    return f"did not start within startupTimeoutSeconds ({timeout} s); {advice}" + (
        f"; its last line: {said}" if said else ""
    )


def _out_of_memory(container: ContainerView, sd: SamplerDeployment) -> str:
    what = "the server" if container.name == names.CONTAINER else f"container {container.name}"
    limit = sd.spec.resources.limits.get("memory")
    if limit is None:
        return f"{what} was killed because its node ran out of memory; set resources.limits.memory"
    return (
        f"{what} needed more than its {limit} of memory and was killed; raise"
        " resources.limits.memory"
    )
