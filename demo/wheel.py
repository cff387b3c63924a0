"""One wheel from the package index that pip is set up for, its content verified."""

import hashlib
import importlib.util
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

__all__ = ["WheelError", "fetch_wheel", "verify"]

_REPOSITORY = Path(__file__).parent.parent
_BLOCK_BYTES = 1 << 20


class WheelError(Exception):
    """The wheel could not be had, or is not the expected one; the text says what to do."""


def fetch_wheel(project: str, version: str, sha256: str, folder: Path) -> Path:
    """Download ``project==version`` without its dependencies into the existing ``folder``.

    Raises WheelError when no pip can be found or started, when the index has no such wheel, and
    when the file's digest is not ``sha256``.
    """
    last = ""
    for python in _pythons(folder):
        done = subprocess.run(
            [
                *(str(python), "-m", "pip", "--disable-pip-version-check", "download", "--quiet"),
                *("--no-deps", "--only-binary", ":all:", "--dest", str(folder)),
                f"{project}=={version}",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        found = list(folder.glob("*.whl"))
        if done.returncode == 0 and found:
            verify(found[0], sha256)
            return found[0]
        last = done.stderr.strip()
    raise WheelError(
        f"{project} {version} could not be downloaded from the package index; pip says:\n{last}"
    )


def _pythons(folder: Path) -> Iterator[Path]:
    """Interpreters that have pip: the one that set-up made for uv, our own, one made now.

    An environment that uv made has no pip of its own.
    """
    tool = _REPOSITORY / ".cache/uv-tool/bin/python"
    if tool.exists():
        yield tool
    if importlib.util.find_spec("pip") is not None:
        yield Path(sys.executable)
    environment = folder / "pip"
    try:
        venv.create(environment, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise WheelError(f"{sys.executable} cannot make an environment with pip: {error}") from None
    yield environment / "bin/python"


def verify(path: Path, sha256: str) -> None:
    """Raises WheelError when the file's digest is another one."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    if digest.hexdigest() != sha256:
        raise WheelError(
            f"{path.name} has sha256 {digest.hexdigest()}, expected {sha256}: the index serves "
            "another file than the one that this program was tried with"
        )
