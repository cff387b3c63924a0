"""The spec as this machine can run it: paths of a cluster become paths of this machine. Pure.

A LoRA volume is mounted where its directory is, so that the paths that servers, clients and the
list of declared adapters speak of are all real.
"""

from collections.abc import Mapping
from posixpath import normpath
from typing import Any

from ..errors import InvalidSpec
from ..objects import Manifest
from ..spec import SamplerDeployment
from ..spec.parse import parse
from .places import Places

__all__ = ["localized"]


def localized(manifest: Manifest, places: Places, devices: int) -> Manifest:
    """The manifest with this machine's paths. Raises InvalidSpec for what is wrong, not mapped, or
    needs more devices than there are."""
    sd = parse(manifest)
    _check_devices(sd, devices)
    spec = dict(manifest["spec"])
    spec["model"] = _model(sd, spec["model"], places)
    if spec.get("lora"):
        spec["lora"] = _lora(sd, spec["lora"], places)
    result = {**manifest, "spec": spec}
    parse(result)
    return result


def _check_devices(sd: SamplerDeployment, devices: int) -> None:
    needed = sd.spec.gpu_count
    if needed > devices:
        has = f"{devices} GPUs" if devices > 1 else "1 GPU" if devices else "no GPU"
        raise InvalidSpec(
            f"spec.gpu.count: a replica needs {needed}, this machine has {has}; set gpu.count: 0 to"
            " run on CPUs",
            "spec.gpu.count",
        )


def _model(sd: SamplerDeployment, given: Mapping[str, Any], places: Places) -> Manifest:
    model = sd.spec.model
    if sd.spec.engine.kind == "sim":
        return dict(given)
    if places.model_path is not None:
        directory = places.model_path
    elif model.scheme == "pvc":
        claim, _, path = model.location.partition("/")
        directory = f"{places.volume(claim, 'spec.model.uri')}/{path}".rstrip("/")
    else:
        return dict(given)
    of_hub = ("cache", "revision", "tokenSecretRef")
    kept = {name: value for name, value in given.items() if name not in of_hub}
    # Clients see the same name as from a cluster.
    return {**kept, "uri": f"file://{directory}", "name": model.served_name}


def _lora(sd: SamplerDeployment, given: Mapping[str, Any], places: Places) -> Manifest:
    lora = sd.spec.lora
    assert lora is not None
    moved: dict[str, str] = {}
    volumes = []
    for index, (volume, raw) in enumerate(
        zip(lora.volumes, given.get("volumes") or (), strict=True)
    ):
        where = f"spec.lora.volumes[{index}]"
        if volume.empty_dir is not None:
            volumes.append(raw)
            continue
        source: Manifest = {}
        if volume.host_path is not None:
            directory, source = volume.host_path.path, raw["hostPath"]
        elif volume.persistent_volume_claim is not None:
            directory = places.volume(volume.persistent_volume_claim.claim_name, where)
        else:
            directory = places.volume(volume.name, where)
        directory = normpath("/".join(filter(None, (directory, volume.sub_path))))
        moved[volume.mount_path] = directory
        entry: Manifest = {
            "name": volume.name,
            "mountPath": directory,
            "hostPath": {**source, "path": directory},
            "readOnly": volume.read_only,
        }
        volumes.append(entry)
    adapters = [
        {**raw, "path": _moved(str(raw["path"]), moved)} for raw in given.get("adapters") or ()
    ]
    return {**given, "volumes": volumes, "adapters": adapters}


def _moved(path: str, moved: Mapping[str, str]) -> str:
    for mount, directory in moved.items():
        if path.startswith(f"{mount}/"):
            return directory + path.removeprefix(mount)
    return path
