"""An image of one layer, in the form of ``docker save``: neither daemon nor registry is needed."""

import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

__all__ = ["write_archive"]

_CREATED: Final = "2020-01-01T00:00:00Z"
_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def write_archive(archive: Path, name: str, root: Path, config: Mapping[str, Any]) -> None:
    """The files below ``root`` as image ``name``; ``config`` is that of an OCI image.

    Equal files give an equal archive.
    """
    with tempfile.NamedTemporaryFile(dir=archive.parent) as layer:
        _write_layer(layer, root)
        layer.seek(0)
        digest = hashlib.file_digest(layer, "sha256").hexdigest()
        image = {
            "architecture": "amd64",
            "os": "linux",
            "created": _CREATED,
            "config": {"Env": [_PATH], **config},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created": _CREATED, "created_by": "files"}],
        }
        described = json.dumps(image).encode()
        config_name = f"{hashlib.sha256(described).hexdigest()}.json"
        layer_name = f"{digest}/layer.tar"
        listed = [{"Config": config_name, "RepoTags": [name], "Layers": [layer_name]}]
        part = archive.with_suffix(".part")
        with tarfile.open(part, "w") as whole:
            _add(whole, config_name, io.BytesIO(described), len(described))
            size = layer.seek(0, io.SEEK_END)
            layer.seek(0)
            _add(whole, layer_name, layer, size)
            manifest = json.dumps(listed).encode()
            _add(whole, "manifest.json", io.BytesIO(manifest), len(manifest))
        shutil.move(part, archive)


def _write_layer(file: IO[bytes], root: Path) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as layer:
        for entry in sorted(root.iterdir()):
            layer.add(entry, arcname=entry.name, filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = 0
    member.uname = member.gname = ""
    return member


def _add(whole: tarfile.TarFile, name: str, data: IO[bytes], size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    whole.addfile(member, data)
