"""What tests do at an API server: users with their kubeconfigs, kubectl, helm."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.apiserver_certificates import Authority, Certificate, kubeconfig
from tests.apiserver_client import KubeClient
from tests.kube_commands import KubeCommands

__all__ = ["ApiAccess"]

_ADMINISTRATORS: Final = ("system:masters",)


class ApiAccess(KubeCommands):
    """The API server at ``url``, which trusts the users of ``authority``.

    ``client`` is the administrator.
    """

    def __init__(self, folder: Path, url: str, authority: Authority) -> None:
        self.url = url
        self._folder = folder
        self._authority = authority
        self._users: dict[tuple[str, tuple[str, ...]], tuple[Certificate, Path]] = {}
        super().__init__(folder, self.kubeconfig("admin", _ADMINISTRATORS))
        self.client = self.client_of("admin", _ADMINISTRATORS)

    @property
    def ca(self) -> Path:
        """The certificate that signed the server's, as a PEM file."""
        return self._authority.own.certificate

    def kubeconfig(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig of ``user``; RBAC says what that user may do, at first nothing."""
        return self._user(user, groups)[1]

    def client_of(self, user: str, groups: Sequence[str] = ()) -> KubeClient:
        """``user`` at the API server."""
        return KubeClient(self.url, self.ca, self._user(user, groups)[0])

    def _user(self, user: str, groups: Sequence[str]) -> tuple[Certificate, Path]:
        known = self._users.get((user, tuple(groups)))
        if known is not None:
            return known
        name = f"user-{len(self._users)}"
        certificate = self._authority.user(name, user, groups)
        path = self._folder / f"{name}.kubeconfig"
        path.write_text(kubeconfig(self.url, self.ca, certificate))
        self._users[user, tuple(groups)] = certificate, path
        return certificate, path
