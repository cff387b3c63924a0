"""Images that everything else stands on, made once: a Debian with Python, and ``pause``.

They are kept below ``.cache/images`` under a name that depends on how they are made.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Final

from tests.cluster.image_archive import write_archive

__all__ = ["BASE_IMAGE", "PAUSE_IMAGE", "base_archive", "pause_archive"]

BASE_IMAGE: Final = "localhost/python:3.11-slim"
PAUSE_IMAGE: Final = "localhost/pause:1"

_SUITE: Final = "bookworm"
_PACKAGES: Final = ("python3", "python3-venv", "ca-certificates")
_MIRROR: Final = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
_USELESS: Final = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt/archives")

# What keeps a pod's namespaces: it reaps orphans and waits to be told to end.
_PAUSE: Final = """
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void reap(int number) { while (waitpid(-1, 0, WNOHANG) > 0); }
static void end(int number) { _exit(0); }
int main(void) {
    signal(SIGCHLD, reap);
    signal(SIGTERM, end);
    signal(SIGINT, end);
    for (;;) pause();
}
"""


def base_archive(folder: Path) -> Path:
    """The archive of ``BASE_IMAGE``, the stand-in for the image of that name that Docker Hub has:
    2 to 3 minutes the first time, by debootstrap."""
    return _made_once(folder, "python", " ".join((_SUITE, *_PACKAGES, *_USELESS)), _make_base)


def pause_archive(folder: Path) -> Path:
    """The archive of ``PAUSE_IMAGE``."""
    return _made_once(folder, "pause", _PAUSE, _make_pause)


def _made_once(folder: Path, name: str, recipe: str, make: Callable[[Path, Path], None]) -> Path:
    key = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    archive = folder / f"base-{name}-{key}.tar"
    if archive.exists():
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    # Nodes are prepared side by side, and test runs may be too.
    with archive.with_suffix(".lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if not archive.exists():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                root = Path(scratch) / "root"
                root.mkdir()
                make(root, archive)
    return archive


def _make_base(root: Path, archive: Path) -> None:
    packages = f"--include={','.join(_PACKAGES)}"
    _run("debootstrap", "--variant=minbase", packages, _SUITE, str(root), _MIRROR)
    for useless in _USELESS:
        shutil.rmtree(root / useless)
    for index in (root / "var/lib/apt/lists").iterdir():
        shutil.rmtree(index) if index.is_dir() else index.unlink()
    # As in the image of Docker Hub.
    (root / "usr/bin/python").symlink_to("python3")
    write_archive(archive, BASE_IMAGE, root, {"Cmd": ["python3"]})


def _make_pause(root: Path, archive: Path) -> None:
    source = root.parent / "pause.c"
    source.write_text(_PAUSE)
    _run("gcc", "-static", "-Os", "-s", "-o", str(root / "pause"), str(source))
    config = {"Entrypoint": ["/pause"], "User": "65535:65535"}
    write_archive(archive, PAUSE_IMAGE, root, config)


def _run(*words: str) -> None:
    # Debian's tools are in /usr/sbin, which the PATH of a user may lack.
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout[-4000:]}")
