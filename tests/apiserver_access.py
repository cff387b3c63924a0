"""What tests do at an API server: users with their kubeconfigs, kubectl, helm."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.apiserver_certificates import Authority, Certificate, kubeconfig
from tests.apiserver_client import KubeClient
from tests.kube_tools import kube_tool

__all__ = ["ApiAccess"]

_COMMAND_SECONDS: Final = 50


class ApiAccess:
    """The API server at ``url``, which trusts the users of ``authority``.

    ``client`` is the administrator.
    """

    def __init__(self, folder: Path, url: str, authority: Authority) -> None:
        self.url = url
        self._folder = folder
        self._authority = authority
        self._users: dict[tuple[str, tuple[str, ...]], tuple[Certificate, Path]] = {}
        home = folder / "home"
        home.mkdir()
        # kubectl and helm keep caches and settings at home, and would find the user's clusters.
        self._environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
        self.admin_kubeconfig = self.kubeconfig("admin", ("system:masters",))
        self.client = self.client_of("admin", ("system:masters",))

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

    def kubectl(
        self,
        *words: str,
        input: str | None = None,  # noqa: A002 - the name that subprocess.run gives it
        check: bool = True,
        kubeconfig: Path | None = None,
        seconds: float = _COMMAND_SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl, as the administrator unless ``kubeconfig`` is given."""
        return self._command("kubectl", words, input, check, kubeconfig, seconds)

    def helm(
        self,
        *words: str,
        input: str | None = None,  # noqa: A002 - the name that subprocess.run gives it
        check: bool = True,
        kubeconfig: Path | None = None,
        seconds: float = _COMMAND_SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """Run helm, as the administrator unless ``kubeconfig`` is given."""
        return self._command("helm", words, input, check, kubeconfig, seconds)

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

    def _command(
        self,
        name: str,
        words: Sequence[str],
        text: str | None,
        check: bool,
        config: Path | None,
        seconds: float,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            (str(kube_tool(name)), "--kubeconfig", str(config or self.admin_kubeconfig), *words),
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            env=self._environment,
        )
        if check and done.returncode != 0:
            command = " ".join((name, *words))
            raise RuntimeError(f"{command}: exit code {done.returncode}\n{done.stderr}")
        return done
