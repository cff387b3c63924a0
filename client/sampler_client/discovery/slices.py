"""What the EndpointSlices of a Service say about a fleet. Pure.

A Service has any number of slices, each with at most a hundred addresses, and addresses move
between them: only all of them together are the fleet.
"""

import re
import shlex
from collections.abc import Iterator
from typing import Final, TypeVar

import msgspec

from sampler_api.errors import InvalidRequest
from sampler_api.names import CLIENT_ROLE, DATA_PORT_NAME

from .endpoint import Endpoint

__all__ = ["ApiError", "ApiRefusal", "EndpointSlices", "FleetName", "role_binding"]

T = TypeVar("T")

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DATA_PORT: Final = re.compile(rf"{DATA_PORT_NAME}(-\d+)?")
_USER: Final = re.compile(r'User "([^"]+)"')
_ACCOUNT: Final = re.compile(r"system:serviceaccount:([^:]+):([^:]+)")


class ApiError(Exception):
    """The API server does not answer, or not with what was asked for: ask again later."""


class ApiRefusal(ApiError):
    """It knows nobody here, or does not let them look: not before somebody changes that."""


class FleetName(msgspec.Struct, frozen=True):
    """Which fleet of a cluster."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @classmethod
    def of(cls, target: str, own_namespace: str) -> "FleetName":
        """From ``k8s://NAMESPACE/NAME`` or ``k8s://NAME``. Raises InvalidRequest."""
        text = target.strip().partition("://")[2].rstrip("/")
        namespace, slash, name = text.partition("/")
        if not slash:
            namespace, name = own_namespace, namespace
        if not _LABEL.fullmatch(namespace) or not _LABEL.fullmatch(name):
            raise InvalidRequest(
                f"endpoints: {target.strip()!r} must be k8s://NAMESPACE/NAME of a"
                " SamplerDeployment, or k8s://NAME in the namespace of this pod",
                "endpoints",
            )
        return cls(namespace, name)


class _Conditions(msgspec.Struct, frozen=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Target(msgspec.Struct):
    uid: str = ""


class _Address(msgspec.Struct, rename="camel"):
    addresses: tuple[str, ...] = ()
    conditions: _Conditions = _Conditions()
    target_ref: _Target | None = None

    @property
    def pod(self) -> str:
        """Identity of the pod; empty where somebody wrote the slice by hand."""
        return self.target_ref.uid if self.target_ref is not None else ""

    @property
    def takes_work(self) -> bool:
        """The pod is ready and not about to end. Unknown means that it is: so Kubernetes has it."""
        told = self.conditions
        is_serving = told.ready if told.serving is None else told.serving
        return is_serving is not False and not told.terminating


class _Port(msgspec.Struct, rename="camel"):
    name: str | None = None
    port: int | None = None
    app_protocol: str | None = None


class _Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    resource_version: str = ""


class _Slice(msgspec.Struct, rename="camel"):
    metadata: _Metadata
    address_type: str = ""
    endpoints: tuple[_Address, ...] | None = None
    ports: tuple[_Port, ...] | None = None

    def engines(self, address: _Address) -> Iterator[Endpoint]:
        """Those behind one address. Names as addresses are not in use any more."""
        if not address.addresses or self.address_type not in ("IPv4", "IPv6"):
            return
        for port in self.ports or ():
            if port.port is not None and _DATA_PORT.fullmatch(port.name or ""):
                # Of several addresses all lead to the same.
                is_encrypted = port.app_protocol == "https"
                yield Endpoint.of(address.addresses[0], port.port, is_encrypted=is_encrypted)


class _List(msgspec.Struct):
    metadata: _Metadata
    items: tuple[_Slice, ...] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


class EndpointSlices:
    """The slices of one Service: those of a list, and what a watch has told since.

    Both raise ApiError for what is no list, or no event of a watch that goes on.
    """

    def __init__(self, listed: bytes) -> None:
        found = _decoded(listed, _List)
        self.version = found.metadata.resource_version
        """Where a watch goes on."""
        self._slices = {each.metadata.name: each for each in found.items or ()}

    def take(self, line: bytes) -> None:
        """One event. A watch that fell behind, which is code 410, raises as any other error."""
        event = _decoded(line, _Event)
        if event.type == "ERROR":
            status = _decoded(event.object, _Status)
            raise ApiError(f"the watch ended with {status.code}: {status.message}")
        changed = _decoded(event.object, _Slice)
        self.version = changed.metadata.resource_version
        if event.type == "DELETED":
            self._slices.pop(changed.metadata.name, None)
        elif event.type in ("ADDED", "MODIFIED"):
            self._slices[changed.metadata.name] = changed

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """Every engine of every replica that takes new work."""
        slices = self._slices.values()
        # A pod with addresses of both families is one replica all the same.
        in_ipv4 = {
            address.pod
            for each in slices
            if each.address_type == "IPv4"
            for address in each.endpoints or ()
        }
        return frozenset(
            endpoint
            for each in slices
            for address in each.endpoints or ()
            if address.takes_work
            if each.address_type == "IPv4" or not address.pod or address.pod not in in_ipv4
            for endpoint in each.engines(address)
        )


def _decoded(data: bytes | msgspec.Raw, wanted: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=wanted)
    except msgspec.MsgspecError as error:
        raise ApiError(f"the API server says what is not understood here: {error}") from None


def role_binding(refusal: str, namespace: str) -> str:
    """The command that lets whom the API server has refused look for replicas in ``namespace``;
    empty where it names nobody."""
    user = _USER.search(refusal)
    if user is None:
        return ""
    binding, subject = CLIENT_ROLE, f"--user={user[1]}"
    account = _ACCOUNT.fullmatch(user[1])
    if account is not None:
        binding = "-".join((CLIENT_ROLE, *account.groups()))
        subject = f"--serviceaccount={':'.join(account.groups())}"
    words = [binding, f"--clusterrole={CLIENT_ROLE}", subject, f"--namespace={namespace}"]
    return shlex.join(["kubectl", "create", "rolebinding", *words])
