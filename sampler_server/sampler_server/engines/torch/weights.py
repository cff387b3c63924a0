"""New weights for a model that serves: loaded beside it, put in its place between two steps.

They are read by transformers as at a start, so that renamed and tied tensors are what they would be
in a fresh engine, and copied out of their files, which their owner may overwrite. Where the device
has no room for both, the new ones wait in the host's memory and are copied over the old ones, of
which the host keeps a copy until the last one is in place.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sampler_api.errors import EngineDead, EngineFailed, ModelInvalid, WeightsInvalid
from sampler_core.base_files import forward_config

from ..base import Weights
from .options import TorchOptions
from .packing import pack_again, unpack_linears

__all__ = ["NewWeights", "Sharder", "load_weights", "put_weights", "read_weights"]

_log = logging.getLogger(__name__)

Sharder = Callable[[Any, torch.device], int]
"""Leaves one rank's part of a model, on its device; says how many key heads a layer has left."""

_FIELD = "directory"


@dataclass(frozen=True)
class NewWeights:
    """Tensors by their names in the model's state, on its device or in the host's memory."""

    tensors: Mapping[str, Tensor]
    digest: str


def read_weights(
    options: TorchOptions,
    model: Any,
    device: torch.device,
    weights: Weights,
    shard: Sharder | None = None,
) -> NewWeights:
    """Load a checked directory as ``load_weights`` does, and see that it has not changed meanwhile.

    Raises WeightsInvalid, and EngineFailed when there is no memory.
    """
    tensors = load_weights(options, model, device, weights.directory, shard)
    # Not before it was copied: until then its tensors may be views of the files.
    weights.check_unchanged()
    return NewWeights(tensors, weights.digest)


def load_weights(
    options: TorchOptions,
    model: Any,
    device: torch.device,
    directory: Path,
    shard: Sharder | None = None,
) -> dict[str, Tensor]:
    """Load a directory and compare it with the model, or with the part of it that ``shard`` leaves;
    on any thread.

    Raises WeightsInvalid, and EngineFailed when there is no memory.
    """
    try:
        fresh = _load(options, model, directory)
        if shard is not None:
            shard(fresh, torch.device("cpu"))
        tensors = _placed(fresh.state_dict(), device)
    except ModelInvalid as error:
        # A file has gone since it was checked, or the model cannot be split.
        raise WeightsInvalid(error.message, _FIELD) from error
    except (MemoryError, RuntimeError, OSError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EngineFailed(f"{directory}: cannot be loaded: {line}") from error
    _compare(directory, model.state_dict(), tensors)
    return tensors


def put_weights(model: nn.Module, new: Mapping[str, Tensor], *, is_packed: bool) -> None:
    """Give a model the tensors; either all of them or, when this raises, none. ``is_packed``: its
    products were packed, and are again.

    Raises EngineDead when the old ones could not be put back.
    """
    unpack_linears(model)
    try:
        _exchange(model, new)
    finally:
        if is_packed:
            pack_again(model)


def _exchange(model: nn.Module, new: Mapping[str, Tensor]) -> None:
    places = model.state_dict(keep_vars=True)
    undo: list[tuple[Tensor, Tensor]] = []
    try:
        for name, place in places.items():
            _put(place, new[name], undo)
    except BaseException:
        try:
            for place, old in reversed(undo):
                _put(place, old, [])
        except Exception as error:
            raise EngineDead(f"the old weights could not be put back: {error}") from error
        raise


def _put(place: Tensor, tensor: Tensor, undo: list[tuple[Tensor, Tensor]]) -> None:
    """Replace what ``place`` holds; what undoes it is added before anything is touched."""
    if tensor.device == place.device:
        undo.append((place, place.data))
        place.data = tensor
    else:
        undo.append((place, place.data.to("cpu", copy=True)))
        place.data.copy_(tensor)
        if not torch.equal(place.data.cpu(), tensor):
            raise RuntimeError(f"{place.device} does not hold what was copied to it")


def _load(options: TorchOptions, model: Any, directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    is_of_files = options.model is None or isinstance(options.model, str | Path)
    loader: Any = options.model_cls or (AutoModelForCausalLM if is_of_files else type(model))
    kind = forward_config(directory).get("model_type")
    if kind != model.config.model_type:
        raise WeightsInvalid(
            f"{directory / 'config.json'}: model_type: {kind!r}, the base has "
            f"{model.config.model_type!r}",
            _FIELD,
        )
    try:
        fresh, found = loader.from_pretrained(
            str(directory),
            dtype=model.dtype,
            trust_remote_code=options.trust_remote_code,
            # Said below, by name.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (ValueError, KeyError, ImportError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsInvalid(f"{directory}: cannot be loaded: {line}", _FIELD) from error
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        names = sorted(map(str, found.get(kind) or ()))
        if names:
            raise WeightsInvalid(f"{directory}: {kind.replace('_', ' ')}: {names[0]}", _FIELD)
    if type(fresh) is not type(model):
        raise WeightsInvalid(
            f"{directory}: holds a {type(fresh).__name__}, the base is a {type(model).__name__}",
            _FIELD,
        )
    return fresh


def _placed(state: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    try:
        return _copies(state, device)
    except torch.OutOfMemoryError:
        _log.info("%s has no room for a second copy: new weights wait in memory", device)
        return _copies(state, torch.device("cpu"))


def _copies(state: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Tied tensors stay tied."""
    made: dict[tuple[int, torch.Size], Tensor] = {}
    found = {}
    for name, tensor in state.items():
        key = tensor.data_ptr(), tensor.shape
        if key not in made:
            made[key] = tensor.detach().to(device, copy=True)
        found[name] = made[key]
    return found


def _compare(directory: Path, old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
    """What the files' headers could not tell: the model may have been made from no files."""
    for name in sorted(old.keys() ^ new.keys()):
        what = "lacks" if name in old else "has"
        raise WeightsInvalid(f"{directory}: {what} {name!r}, unlike the base", _FIELD)
    for name, tensor in old.items():
        other = new[name]
        if tensor.shape != other.shape or tensor.dtype != other.dtype:
            raise WeightsInvalid(
                f"{directory}: {name!r} is {other.dtype} {list(other.shape)}, in the base "
                f"{tensor.dtype} {list(tensor.shape)}",
                _FIELD,
            )
