"""The project's images, built by buildah from its Dockerfiles without a daemon or a registry.

``python -m tests.cluster.images [NAME…]`` builds them and prints their sizes. Layers are kept in
``.cache/images``: what has not changed is not made again.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from fcntl import LOCK_EX, flock
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tests.cluster.base_images import BASE_IMAGE, base_archive
from tests.cluster.hollow_wheels import hollow_wheels

__all__ = ["IMAGES", "Built", "build", "image_name"]

_ROOT: Final = Path(__file__).parent.parent.parent
_FOLDER: Final = _ROOT / ".cache" / "images"
# A cluster that is not of this machine has them from a registry.
_REGISTRY: Final = os.environ.get("E2E_REGISTRY", "localhost")
_TAG: Final = os.environ.get("E2E_TAG", "e2e")
# Made by `make venv`; .venv itself has no pip.
_PIP: Final = _ROOT / ".cache" / "uv-tool" / "bin" / "python"

_HANDED_ON: Final = (
    "default-timeout",
    "extra-index-url",
    "find-links",
    "index-url",
    "proxy",
    "trusted-host",
)


# What .dockerignore lets through.
_FOLDERS: Final = ("client", "operator", "sampler_server")
_FILES: Final = (
    *("LICENSE", "README.md", "pyproject.toml", ".dockerignore"),
    *("requirements/constraints.txt", "scripts/image_requirements.py"),
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A Dockerfile with its arguments. ``is_hollow``: CUDA, which nodes without GPUs never call, is
    that of ``hollow_wheels``."""

    dockerfile: str
    arguments: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    is_hollow: bool = False


IMAGES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        "sampler-torch": Recipe(
            "sampler_server/Dockerfile", {"EXTRA": "server,torch"}, is_hollow=True
        ),
        "sampler-operator": Recipe("operator/Dockerfile"),
        "sampler-sim": Recipe("sampler_server/Dockerfile", {"EXTRA": "server"}),
        # What a training job has of ours.
        "sampler-job": Recipe("sampler_server/Dockerfile", {"EXTRA": "k8s"}),
    }
)


@dataclass(frozen=True, slots=True)
class Built:
    """An image as an archive that containerd imports; ``size`` is what it takes unpacked."""

    name: str
    archive: Path
    size: int


def image_name(image: str) -> str:
    """What pods name it."""
    return f"{_REGISTRY}/{image}:{_TAG}"


def build(image: str) -> Built:
    """Build one of ``IMAGES``, or find that nothing it is made of has changed."""
    recipe, name = IMAGES[image], image_name(image)
    arguments = {"BASE": BASE_IMAGE, "VERSION": _version(), **recipe.arguments}
    base = base_archive(_FOLDER)
    with _locked(image):
        archive = _FOLDER / f"{image}-{_key(recipe, name, arguments, base)}.tar"
        if not archive.exists():
            _pull_base(base)
            words = [f"--build-arg={key}={value}" for key, value in arguments.items()]
            own = [_hollow()] if recipe.is_hollow else []
            with _package_index(own) as mounts:
                _buildah(
                    image,
                    *("bud", "--isolation", "chroot", "--pull-never", "--layers", "--quiet"),
                    *(*words, *mounts, "--file", str(_ROOT / recipe.dockerfile), "--tag", name),
                    str(_ROOT),
                )
            for former in _FOLDER.glob(f"{image}-*"):
                former.unlink()
            part = archive.with_suffix(".part")
            _buildah(image, "push", "--quiet", name, f"docker-archive:{part}:{name}")
            part.rename(archive)
    return Built(name, archive, archive.stat().st_size)


def _key(recipe: Recipe, name: str, arguments: Mapping[str, str], base: Path) -> str:
    """Of all that the image is made of."""
    told = json.dumps([name, dict(arguments), base.name, recipe.is_hollow])
    files = [_ROOT / recipe.dockerfile, *(_ROOT / each for each in _FILES)]
    for folder in _FOLDERS:
        files += (path for path in (_ROOT / folder).rglob("*") if path.is_file())
    key = hashlib.sha256(told.encode())
    for path in sorted(path for path in files if path.parent.name != "__pycache__"):
        key.update(f"{path.relative_to(_ROOT)}\0".encode())
        key.update(path.read_bytes())
    return key.hexdigest()[:12]


def _pull_base(archive: Path) -> None:
    mark = _FOLDER / "base-in-storage"
    with _locked("base"):
        if not mark.exists() or mark.read_text() != archive.name:
            _buildah("base", "pull", "--quiet", f"docker-archive:{archive}")
            mark.write_text(archive.name)


def _buildah(run: str, *words: str) -> str:
    """What it prints. In a mount namespace of its own, for it leaves a mount on its storage; so
    each ``run`` counts the mounts of its own."""
    storage = ("--root", str(_FOLDER / "storage"), "--runroot", str(_FOLDER / "run" / run))
    command = ("unshare", "--mount", "--propagation", "private", "buildah", *storage)
    done = subprocess.run(
        (*command, "--storage-driver", "overlay", *words), capture_output=True, text=True
    )
    if done.returncode != 0:
        told = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        raise RuntimeError(f"buildah {' '.join(words)}: exit code {done.returncode}\n{told}")
    return done.stdout


def _hollow() -> str:
    folder = _FOLDER / "hollow-wheels"
    hollow_wheels(folder)
    return str(folder)


@contextmanager
def _package_index(own: list[str]) -> Iterator[list[str]]:
    """Options that tell pip in the build what it is told on this machine, keep it out of the image,
    and let it find the wheels of the folders ``own``."""
    listed = subprocess.run(
        (str(_PIP), "-m", "pip", "--disable-pip-version-check", "config", "list"),
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    found = re.findall(r"^(?::env:|global|install)\.([\w-]+)='(.*)'$", listed, re.MULTILINE)
    # The environment stands first and counts most.
    told = dict(reversed(found))
    trusted = "/etc/ssl/certs/ca-certificates.crt"
    authority = told.pop("cert", os.environ.get("SSL_CERT_FILE", trusted))
    folders = [each for each in told.get("find-links", "").split() if Path(each).is_dir()]
    settings = {"cert": trusted, **{name: told[name] for name in _HANDED_ON if name in told}}
    if own:
        settings["find-links"] = " ".join((*settings.get("find-links", "").split(), *own))
        folders += own
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
        print(
            "[global]",
            *(f"{key} = {value}" for key, value in settings.items()),
            sep="\n",
            file=config,
        )
        config.flush()
        mounts = {config.name: "/etc/pip.conf", authority: trusted, **{at: at for at in folders}}
        yield [
            f"--volume={here}:{there}:ro" for here, there in mounts.items() if Path(here).exists()
        ]


@contextmanager
def _locked(what: str) -> Iterator[None]:
    """Several test runs share what they build."""
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with (_FOLDER / f"{what}.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        yield


def _version() -> str:
    with (_ROOT / "pyproject.toml").open("rb") as file:
        version: str = tomllib.load(file)["project"]["version"]
    return version


def _main(names: list[str]) -> None:
    # pip is busy on one core; the largest begins first.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for built in [pool.submit(_build_and_tell, name) for name in names or IMAGES]:
            built.result()


def _build_and_tell(name: str) -> None:
    started = time.monotonic()
    built = build(name)
    seconds = time.monotonic() - started
    print(f"{built.name}  {built.size / 1e6:.0f} MB  {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    _main(sys.argv[1:])
