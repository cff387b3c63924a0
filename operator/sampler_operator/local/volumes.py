"""Volumes of a pod as directories of this machine."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..errors import InvalidSpec
from ..objects import Manifest
from .places import Places

__all__ = ["Volumes", "check_volumes", "directory_of", "write_config_map"]

_OWN: Final = ("emptyDir", "configMap")
_DATA: Final = "..data"


def check_volumes(pod_spec: Manifest, places: Places) -> None:
    """Raises InvalidSpec for volumes and Secrets that this machine does not have."""
    for volume in pod_spec.get("volumes") or ():
        directory = directory_of(volume, places)
        if directory is not None and not (directory.is_dir() or _is_made(volume)):
            name = volume["name"]
            raise InvalidSpec(f"volume {name}: there is no directory {directory}", name)
        for item in volume.get("secret", {}).get("items", ()):
            _check_key(volume, item["key"], places)
    for container in (*pod_spec.get("initContainers", ()), *pod_spec["containers"]):
        for variable in container.get("env") or ():
            _check_source(variable.get("valueFrom") or {}, variable["name"], places)
        for source in container.get("envFrom") or ():
            places.environment(source)


def _check_key(volume: Mapping[str, Any], key: str, places: Places) -> None:
    name, where = volume["secret"]["secretName"], f"volume {volume['name']}"
    file = Path(places.secret(name, where)) / key
    if not file.is_file():
        raise InvalidSpec(f"{where}: Secret {name!r} has no key {key!r}: no file {file}", where)


def _is_made(volume: Mapping[str, Any]) -> bool:
    return bool(volume.get("hostPath", {}).get("type") == "DirectoryOrCreate")


def _check_source(source: Mapping[str, Any], name: str, places: Places) -> None:
    if "secretKeyRef" in source:
        if not source["secretKeyRef"].get("optional"):
            places.secret(source["secretKeyRef"]["name"], f"spec.env: {name}")
    elif source and "fieldRef" not in source:
        kinds = ", ".join(source)
        raise InvalidSpec(
            f"spec.env: {name}: {kinds} means nothing on one machine; give a value", "spec.env"
        )


def directory_of(volume: Mapping[str, Any], places: Places) -> Path | None:
    """The directory that a volume is; ``None`` for one that every pod has of its own. Raises
    InvalidSpec."""
    name = str(volume["name"])
    where = f"volume {name}"
    if any(kind in volume for kind in _OWN):
        return None
    if "hostPath" in volume:
        return Path(volume["hostPath"]["path"])
    if "secret" in volume:
        return Path(places.secret(volume["secret"]["secretName"], where))
    if "persistentVolumeClaim" in volume:
        return Path(places.volume(volume["persistentVolumeClaim"]["claimName"], where))
    return Path(places.volume(name, where))


class Volumes:
    """The directories of one pod: below ``own`` what lives as long as it, the others where they
    are. ``scratch`` stands for /tmp: sockets lie there, whose paths must be short. ``kept``: by
    name, directories in place of an emptyDir that outlive pods."""

    def __init__(
        self,
        pod_spec: Manifest,
        places: Places,
        own: Path,
        scratch: Path,
        kept: Mapping[str, Path],
    ) -> None:
        self._spec = pod_spec
        self._own = own
        self._scratch = scratch
        self._directories: dict[str, Path] = {}
        for volume in pod_spec.get("volumes") or ():
            name = str(volume["name"])
            found = directory_of(volume, places)
            if found is None:
                found = kept.get(name, own / name) if "emptyDir" in volume else own / name
            elif "items" in volume.get("secret", {}):
                found = own / name
            self._directories[name] = found

    def make(self, places: Places, config_maps: Mapping[str, Mapping[str, str]]) -> None:
        """Make what is the pod's own. Raises OSError."""
        self._scratch.mkdir(parents=True, mode=0o700, exist_ok=True)
        for volume in self._spec.get("volumes") or ():
            directory = self._directories[volume["name"]]
            if "configMap" in volume:
                directory.mkdir(parents=True, exist_ok=True)
                content = config_maps.get(volume["configMap"]["name"])
                if content is not None:
                    write_config_map(directory, content)
            elif "emptyDir" in volume or _is_made(volume):
                directory.mkdir(parents=True, exist_ok=True)
            elif "items" in volume.get("secret", {}):
                directory.mkdir(parents=True, mode=0o700, exist_ok=True)
                source = directory_of(volume, places)
                assert source is not None
                for item in volume["secret"]["items"]:
                    link = directory / item["path"]
                    link.unlink(missing_ok=True)
                    link.symlink_to((source / item["key"]).absolute())

    def update(self, config_map: str, content: Mapping[str, str]) -> None:
        """A ConfigMap has changed."""
        for volume in self._spec.get("volumes") or ():
            if volume.get("configMap", {}).get("name") == config_map:
                write_config_map(self._directories[volume["name"]], content)

    def mounts(self, container: Mapping[str, Any]) -> dict[str, str]:
        """Directories by mount path. The machine's own /dev/shm is as good as any."""
        found = {}
        for mount in container.get("volumeMounts") or ():
            path = mount["mountPath"]
            if path == "/dev/shm":
                continue
            directory = self._directories[mount["name"]] / mount.get("subPath", "")
            found[path] = str(self._scratch if path == "/tmp" else directory)
        return found

    def remove(self) -> None:
        """Remove what is the pod's own."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        shutil.rmtree(self._own, ignore_errors=True)


def write_config_map(directory: Path, content: Mapping[str, str]) -> None:
    """Write a ConfigMap as the kubelet does: readers see all of the former files or all of the new
    ones, since one link is moved."""
    present = directory / _DATA
    former = present.readlink() if present.is_symlink() else None
    number = 1 + int(former.name.rpartition("_")[2]) if former is not None else 0
    version = directory / f"..data_{number}"
    version.mkdir()
    for name, text in content.items():
        (version / name).write_text(text)
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(Path(_DATA) / name)
    link = directory / "..data_tmp"
    link.symlink_to(version.name)
    os.replace(link, present)
    for path in directory.iterdir():
        if path.is_symlink() and not path.exists():
            path.unlink()
    if former is not None:
        shutil.rmtree(directory / former)
