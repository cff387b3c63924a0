"""Who a replica is: its name, its fleet and its pod template, as the environment says it."""

from collections.abc import Mapping
from dataclasses import dataclass

from sampler_api.errors import InvalidRequest, ModelInvalid
from sampler_api.names import (
    ENV_FLEET_NAME,
    ENV_FLEET_UID,
    ENV_POD_NAME,
    ENV_POD_NAMESPACE,
    ENV_TEMPLATE_HASH,
)

__all__ = ["Identity", "base_problem", "check_base", "wanted_problem"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Empty where nobody has said it: a server that was started by hand."""

    replica: str = ""
    fleet: str = ""
    """``namespace/name/uid``."""
    template_hash: str = ""

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> "Identity":
        """What whoever started this process says. Raises InvalidRequest for half a fleet."""
        fleet = ""
        if environment.get(ENV_FLEET_NAME):
            names = (ENV_POD_NAMESPACE, ENV_FLEET_NAME, ENV_FLEET_UID)
            for name in names:
                if not environment.get(name):
                    raise InvalidRequest(f"{name}: must be set where {ENV_FLEET_NAME} is", name)
            fleet = "/".join(environment[name] for name in names)
        return cls(
            replica=environment.get(ENV_POD_NAME, ""),
            fleet=fleet,
            template_hash=environment.get(ENV_TEMPLATE_HASH, ""),
        )

    def of_engine(self, port: int) -> "Identity":
        """One of several engines of a pod: segments must tell them apart."""
        replica = f"{self.replica}:{port}" if self.replica else ""
        return Identity(replica, self.fleet, self.template_hash)


def check_base(base: str, wanted: str | None) -> None:
    """Raises ModelInvalid when the base that was found is another than the one that was asked
    for."""
    problem = wanted_problem(base, wanted)
    if problem:
        raise ModelInvalid(problem, "model_digest")


def wanted_problem(base: str, wanted: str | None) -> str:
    """Why a base must not be served where another one was asked for; empty when it may."""
    if wanted is None or base == wanted:
        return ""
    return f"base {base} differs from --model-digest {wanted}"


def base_problem(base: str, bases: Mapping[str, str], template_hash: str) -> str:
    """Why a replica with this base must stay out of its fleet; empty when it need not.

    ``bases``: what replicas of a pod template have, by its hash. An unknown ``base`` (empty) is no
    problem yet.
    """
    wanted = bases.get(template_hash) if template_hash else None
    if not base or wanted is None or wanted == base:
        return ""
    return f"base {base} differs from {wanted} of this template"
