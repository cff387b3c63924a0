"""What the command line gives in place of what only a cluster has: claims, secrets, a model."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..errors import InvalidSpec, OperatorError

__all__ = ["Places", "directory", "pairs"]


class Places(msgspec.Struct, frozen=True):
    """Directories of this machine by the names that a spec uses."""

    volumes: dict[str, str] = {}
    """By claim; a volume that has no claim goes by its own name."""
    secrets: dict[str, str] = {}
    """By Secret: a directory with a file for each key."""
    model_path: str | None = None
    """The model, in place of ``model.uri``."""

    def over(self, former: "Places") -> "Places":
        """These, and of the former ones what is not given anew."""
        return Places(
            {**former.volumes, **self.volumes},
            {**former.secrets, **self.secrets},
            self.model_path or former.model_path,
        )

    def volume(self, name: str, field: str) -> str:
        """Where a claim or volume is. Raises InvalidSpec, which prints the flag."""
        if name not in self.volumes:
            raise InvalidSpec(
                f"{field}: volume {name!r} is in no cluster here; add --volume {name}=DIRECTORY",
                field,
            )
        return self.volumes[name]

    def secret(self, name: str, field: str) -> str:
        """Where a Secret is. Raises InvalidSpec, which prints the flag."""
        if name not in self.secrets:
            raise InvalidSpec(
                f"{field}: there is no Secret {name!r} here; add --secret {name}=DIRECTORY, which"
                " holds one file for each of its keys",
                field,
            )
        return self.secrets[name]

    def environment(self, source: Mapping[str, Any]) -> str | None:
        """Where the variables of an ``envFrom`` source are; ``None`` for an optional one that is
        not here. Raises InvalidSpec."""
        is_secret = "secretRef" in source
        ref = source["secretRef" if is_secret else "configMapRef"]
        name, where = str(ref["name"]), "spec.envFrom"
        if ref.get("optional") and name not in (self.secrets if is_secret else self.volumes):
            return None
        return self.secret(name, where) if is_secret else self.volume(name, where)

    def secret_value(self, namespace: str, ref: Mapping[str, Any]) -> str | None:
        """What a ``secretKeyRef`` leads to; ``None`` for an optional one that leads nowhere. Raises
        InvalidSpec where the Secret is not mapped, and OperatorError, in the words of the kubelet,
        where it lacks the key."""
        name, key = str(ref["name"]), str(ref["key"])
        is_optional = bool(ref.get("optional"))
        if is_optional and name not in self.secrets:
            return None
        file = Path(self.secret(name, "spec.env")) / key
        if is_optional and not file.exists():
            return None
        try:
            return file.read_text().rstrip("\n")
        except OSError as error:
            said = f"couldn't find key {key} in Secret {namespace}/{name}"
            raise OperatorError(f"{said} ({file}: {error.strerror})") from None


def pairs(words: Iterable[str], option: str) -> dict[str, str]:
    """``NAME=DIRECTORY`` words as a mapping to absolute paths. Raises InvalidSpec."""
    found = {}
    for word in words:
        name, _, path = word.partition("=")
        if not name or not path:
            raise InvalidSpec(f"{option}: {word!r} must be NAME=DIRECTORY", option)
        found[name] = directory(path, option)
    return found


def directory(path: str, option: str) -> str:
    """The absolute path of a directory that exists. Raises InvalidSpec."""
    absolute = Path(path).expanduser().absolute()
    if not absolute.is_dir():
        raise InvalidSpec(f"{option}: there is no directory {path!r}", option)
    return str(absolute)
