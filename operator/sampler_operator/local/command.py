"""From a container of a manifest to a command line and environment of this machine. Pure.

A container has its own file system and network. Here paths below a mount become paths of the
directory that is mounted, and ports become free ports of the loopback address.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from .. import names
from ..objects import Manifest

__all__ = ["HOST", "arguments", "environment", "in_place"]

HOST: Final = "127.0.0.1"
_PORT_OPTIONS: Final = ("--port", "--manage-port")
_HOST_OPTIONS: Final = ("--host", "--manage-host")
_MODEL_OPTION: Final = "--model"
_TEMPORARY: Final = "/tmp"
_LISTEN_SECONDS: Final = "1"


def in_place(text: str, mounts: Mapping[str, str]) -> str:
    """``text`` with a path below a mount path moved to the mounted directory; ``--option=path``
    counts too. Of /tmp only the folder itself: what is below it is there on this machine too, and
    the path of something that a person keeps there."""
    option, equals, path = text.partition("=") if text.startswith("--") else ("", "", text)
    for mount in sorted(mounts, key=len, reverse=True):
        if path == mount or (path.startswith(f"{mount}/") and mount != _TEMPORARY):
            return option + equals + mounts[mount] + path.removeprefix(mount)
    return text


def arguments(
    container: Mapping[str, Any], mounts: Mapping[str, str], ports: Mapping[int, int]
) -> list[str]:
    """The words of the command line; ``ports``: those of the manifest to those of this machine."""
    command, words = list(container.get("command") or ()), list(container.get("args") or ())
    words = [
        word if option == _MODEL_OPTION and not _is_fetched(word) else in_place(word, mounts)
        for option, word in zip(["", *words], words, strict=False)
    ]
    if command != ["sampler"]:
        return [*command, *words]
    for index, option in enumerate(words[:-1]):
        if option in _HOST_OPTIONS:
            words[index + 1] = HOST
        elif option in _PORT_OPTIONS and words[index + 1].isdigit():
            number = int(words[index + 1])
            words[index + 1] = str(ports.get(number, number))
    if words[:1] == ["serve"]:
        # Clients of this machine learn within a fraction of a second that a replica leaves. The
        # last of a repeated option counts: a user's own wins.
        words[1:1] = ["--listen-seconds", _LISTEN_SECONDS]
    return [sys.executable, "-m", "sampler_cli.main", *words]


def _is_fetched(model: str) -> bool:
    """Whether it is where the init container puts it. Any other model is a path of this machine."""
    return model.startswith(f"{names.LINK_DIR}/")


def environment(
    variables: Sequence[Mapping[str, Any]],
    mounts: Mapping[str, str],
    pod: Manifest,
    secret_value: Callable[[Mapping[str, Any]], str | None],
) -> dict[str, str]:
    """The variables of a container; ``pod`` is the object that field references look into,
    ``secret_value`` gives what a ``secretKeyRef`` leads to; without one there is no variable."""
    found: dict[str, str] = {}
    for variable in variables:
        source = variable.get("valueFrom") or {}
        if "fieldRef" in source:
            value = _field(pod, source["fieldRef"]["fieldPath"])
        elif "secretKeyRef" in source:
            held = secret_value(source["secretKeyRef"])
            if held is None:
                continue
            value = held
        else:
            value = in_place(str(variable.get("value", "")), mounts)
        found[variable["name"]] = value
    return found


def _field(pod: Manifest, path: str) -> str:
    """The value at ``metadata.labels['name']`` and the like; empty when nothing is there."""
    path, _, key = path.partition("['")
    value: Any = pod
    for step in path.split("."):
        value = value.get(step, "") if isinstance(value, dict) else ""
    if key:
        value = value.get(key.removesuffix("']"), "") if isinstance(value, dict) else ""
    return str(value)
