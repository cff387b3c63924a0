"""A pod's container on this machine: with the mounts, environment and user of its template, on a
root that nobody can write to. For root, on Linux.

The root is this machine's, below an overlay that is read-only before the container starts.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sampler_operator.local.command import environment

__all__ = ["contained"]

_ROOT: Final = Path(__file__).parent.parent
_PYTHON: Final = {_ROOT, Path(sys.prefix), Path(sys.base_prefix)}
_NOT_READ_ONLY: Final = 96
"""Exit code of a root that can be written to."""


def contained(template: Mapping[str, Any], folder: Path, sources: Mapping[str, Path]) -> list[str]:
    """The words that run a template's first container, to which those of its own command belong.

    ``sources``: the directory of each volume that is no ``emptyDir``; such a one is an empty file
    system in memory. ``folder``: an empty directory, on which the root is mounted, in a namespace
    that ends with the container. The command ``sampler`` is that of this Python.
    """
    pod = template["spec"]
    container = pod["containers"][0]
    kinds = {volume["name"]: volume for volume in pod["volumes"]}
    root = folder / "root"
    lines = [
        "umask 022",
        f"mount -t tmpfs -o mode=755 pod {_quoted(folder)}",
        f"mkdir {_quoted(folder / 'upper')} {_quoted(folder / 'work')} {_quoted(root)}",
        f"mount -t overlay -o lowerdir=/,upperdir={folder}/upper,workdir={folder}/work overlay "
        f"{_quoted(root)}",
        *(f"mount --rbind {place} {_quoted(root)}{place}" for place in ("/proc", "/sys", "/dev")),
    ]
    for place in _elsewhere():
        lines += _read_only(place, root, str(place))
    # An image has its Python where everybody may read it.
    lines += [f"chmod a+x {_quoted(root)}{_quoted(place)}" for place in _closed()]
    for mount in container["volumeMounts"]:
        volume, path = kinds[mount["name"]], mount["mountPath"]
        if "emptyDir" in volume:
            lines.append(f"mkdir -p {_quoted(root)}{path}")
            lines.append(f"mount -t tmpfs -o mode=1777 {mount['name']} {_quoted(root)}{path}")
        else:
            lines += _read_only(sources[mount["name"]], root, path)
    scratch = [m["mountPath"] for m in container["volumeMounts"] if "emptyDir" in kinds[m["name"]]]
    for place in _below(scratch):
        lines += _read_only(place, root, str(place))
    lines += [
        f"mount -o remount,ro {_quoted(root)}",
        # What could be written to would show nothing.
        f"! mkdir {_quoted(root / 'written')} 2>/dev/null || exit {_NOT_READ_ONLY}",
        f"cd {_quoted(root)}",
        'exec chroot . "$@"',
    ]
    script = "\n".join(lines)
    return [
        *("unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "sh"),
        *_as_user({**pod["securityContext"], **container["securityContext"]}),
        # What an image sets.
        *("env", "-i", "-C", "/", "PATH=/usr/local/bin:/usr/bin:/bin"),
        "PYTHONDONTWRITEBYTECODE=1",
        *(f"{name}={value}" for name, value in _environment(template).items()),
        *_command(container),
    ]


def _environment(template: Mapping[str, Any]) -> dict[str, str]:
    meta = {"name": "pod", "namespace": "default", **template["metadata"]}
    variables = template["spec"]["containers"][0]["env"]
    return environment(variables, {}, {"metadata": meta}, lambda _: None)


def _command(container: Mapping[str, Any]) -> list[str]:
    command, words = container["command"], container["args"]
    assert command == ["sampler"]
    return [sys.executable, "-m", "sampler_cli.main", *words]


def _as_user(context: Mapping[str, Any]) -> Sequence[str]:
    assert context["readOnlyRootFilesystem"]
    assert context["runAsNonRoot"]
    assert not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    return (
        *("setpriv", f"--reuid={context['runAsUser']}", f"--regid={context['runAsGroup']}"),
        *("--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"),
    )


def _elsewhere() -> list[Path]:
    """What Python needs from file systems that the overlay does not show."""
    return sorted(place for place in _PYTHON if place.stat().st_dev != Path("/").stat().st_dev)


def _below(folders: Sequence[str]) -> list[Path]:
    """What Python needs and what is mounted on these folders hides: a checkout in /tmp."""
    return sorted(place for place in _PYTHON if any(place.is_relative_to(f) for f in folders))


def _closed() -> list[Path]:
    """Folders above Python that only their owner may pass through."""
    above = {parent for place in _PYTHON for parent in place.parents}
    return sorted(place for place in above if not place.stat().st_mode & 0o001)


def _read_only(source: Path, root: Path, path: str) -> list[str]:
    target = f"{_quoted(root)}{path}"
    return [
        f"mkdir -p {target}",
        f"mount --bind {_quoted(source)} {target}",
        f"mount -o remount,bind,ro {target}",
    ]


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
