"""kubectl and helm: what people type."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.kube_tools import kube_tool

__all__ = ["KubeCommands"]

_COMMAND_SECONDS: Final = 50


class KubeCommands:
    """Run as the user of a kubeconfig, with a home of their own in ``folder``."""

    def __init__(self, folder: Path, kubeconfig: Path) -> None:
        self.admin_kubeconfig = kubeconfig
        home = folder / "home"
        home.mkdir()
        # They keep caches and settings at home, and would find the user's clusters.
        self._environment = {"HOME": str(home), "PATH": os.environ["PATH"]}

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
