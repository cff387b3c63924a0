"""Adapters as immutable snapshots: of a directory, a model or a state dict; written for engines."""

import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sampler_api.errors import AdapterInvalid

from .adapter_config import CONFIG_FILE, parse_config, peft_config_dict
from .adapter_files import MAX_ADAPTER_BYTES, read_adapter_files
from .adapter_identity import TENSORS_FILE, AdapterSnapshot, adapter_digest, make_snapshot
from .adapter_tensors import tensors_of_state_dict
from .safetensors_file import SafetensorsError, parse_safetensors
from .zero_adapter import zero_adapter

__all__ = [
    "CONFIG_FILE",
    "TENSORS_FILE",
    "AdapterSnapshot",
    "adapter_digest",
    "peft_config_dict",
    "snapshot_adapter",
    "write_snapshot",
    "zero_adapter",
]


def snapshot_adapter(
    source: object,
    config: object = None,
    *,
    adapter_name: str | None = None,
    roots: Sequence[Path] | None = None,
    max_bytes: int = MAX_ADAPTER_BYTES,
) -> AdapterSnapshot:
    """Take an adapter as it is now.

    ``source``: a directory that PEFT saved, a PeftModel (``adapter_name`` or its active adapter),
    or a state dict beside its PEFT ``config``. A directory is read at once and whole; with
    ``roots`` it must lie below one of them, symlinks resolved. Raises AdapterInvalid,
    AdapterUnsupported, and with ``roots`` AdapterMissing when the directory does not exist.
    """
    if isinstance(source, str | os.PathLike):
        return _of_directory(Path(source), roots, max_bytes)
    if hasattr(source, "peft_config"):
        return _of_model(source, adapter_name)
    if isinstance(source, Mapping):
        fields = peft_config_dict(config)
        if fields is None:
            raise AdapterInvalid("config: a state dict needs its PEFT config beside it", "config")
        return make_snapshot(fields, tensors_of_state_dict(source), "state dict")
    raise AdapterInvalid(
        f"adapter: a {type(source).__name__} is none; pass a directory, a PeftModel, or a state "
        "dict with its config",
        "config_or_dir",
    )


def write_snapshot(snapshot: AdapterSnapshot, directory: Path) -> None:
    """Write the snapshot's files as ``directory``, whole or not at all.

    A directory that is there already stays: it is named after its content.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=directory.parent))
    try:
        for name, content in snapshot.files.items():
            with (draft / name).open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        draft.chmod(0o755)
        _sync(draft)
        try:
            draft.rename(directory)
        except OSError:
            if not (directory / CONFIG_FILE).is_file():
                raise
        _sync(directory.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _of_directory(directory: Path, roots: Sequence[Path] | None, max_bytes: int) -> AdapterSnapshot:
    if "\0" in str(directory):
        raise AdapterInvalid("adapter_path: holds a NUL character", "adapter_path")
    files = read_adapter_files(directory, roots, max_bytes)
    config = parse_config(files[CONFIG_FILE], str(directory / CONFIG_FILE))
    label = str(directory / TENSORS_FILE)
    try:
        tensors = parse_safetensors(files[TENSORS_FILE], label)
    except SafetensorsError as error:
        raise AdapterInvalid(str(error), "adapter_path") from None
    try:
        return make_snapshot(config, tensors, str(directory), files[TENSORS_FILE])
    except AdapterInvalid as error:
        if error.message.startswith(str(directory)):
            raise
        raise AdapterInvalid(f"{label}: {error.message}", error.field) from None


def _of_model(model: Any, adapter_name: str | None) -> AdapterSnapshot:
    if adapter_name is None:
        active = model.active_adapter
        adapter_name = active if isinstance(active, str) else active[0]
    if adapter_name not in model.peft_config:
        known = ", ".join(sorted(model.peft_config))
        raise AdapterInvalid(
            f"adapter_name: the model has no adapter {adapter_name!r} (it has {known})",
            "adapter_name",
        )
    config = model.peft_config[adapter_name]
    fields = peft_config_dict(config)
    if fields is None:
        raise AdapterInvalid(f"adapter: a {type(config).__name__} is no PEFT config", "config")
    # Not an import: whoever holds such a model has loaded peft, and this package must not need it.
    peft = sys.modules.get("peft") or importlib.import_module("peft")
    state = peft.get_peft_model_state_dict(
        model, adapter_name=adapter_name, save_embedding_layers=_saves_embeddings(fields)
    )
    return make_snapshot(fields, tensors_of_state_dict(state), "PeftModel")


def _saves_embeddings(fields: Mapping[str, Any]) -> bool | str:
    """What ``save_pretrained`` would do, but without asking a hub about the base's vocabulary."""
    targets = fields.get("target_modules")
    if isinstance(targets, list) and not {"embed_tokens", "lm_head"}.isdisjoint(targets):
        return True
    base = fields.get("base_model_name_or_path")
    return "auto" if base and (Path(base) / "config.json").is_file() else False
