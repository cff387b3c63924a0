"""The files of a base model: weight shards, config, tokenizer; and the shapes of its modules."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sampler_api.errors import ModelInvalid

from .safetensors_file import SafetensorsError, TensorInfo, read_header

__all__ = ["forward_config", "linear_shapes", "read_headers", "tokenizer_files", "weight_shards"]

CONFIG_FILE: Final = "config.json"
SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"

_TOKENIZER_NAMES: Final = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tekken.json",
    "tiktoken.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
# What AutoTokenizer asks the model's config for.
_TOKENIZER_CONFIG: Final = ("model_type", "tokenizer_class")
# Written by libraries for themselves; the same weights compute the same with any value.
_NOT_FORWARD: Final = frozenset(
    {
        "_name_or_path",
        "name_or_path",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "transformers_version",
        "use_cache",
    }
)


def weight_shards(directory: Path) -> list[Path]:
    """The safetensors files that hold the weights, sorted by name.

    Raises ModelInvalid when there are none, when only pickles are there, or when a shard that the
    index names is missing.
    """
    if not directory.is_dir():
        raise ModelInvalid(f"{directory}: no such model directory", "model")
    if (directory / SINGLE_FILE).is_file():
        return [directory / SINGLE_FILE]
    if (directory / INDEX_FILE).is_file():
        weight_map = _json_object(directory / INDEX_FILE).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelInvalid(f"{directory / INDEX_FILE}: holds no weight_map", "model")
        names = sorted({str(name) for name in weight_map.values()})
        for name in names:
            if Path(name).name != name or not (directory / name).is_file():
                raise ModelInvalid(f"{directory}: {INDEX_FILE} names {name}, which is missing")
        return [directory / name for name in names]
    found = sorted(directory.glob("*.safetensors"))
    if found:
        return found
    if any(directory.glob("*.bin")):
        raise ModelInvalid(
            f"{directory}: holds pickles (*.bin), which can run code and are not read; save the "
            "model again with save_pretrained, which writes safetensors",
            "model",
        )
    raise ModelInvalid(f"{directory}: holds no weights (*.safetensors)", "model")


def forward_config(directory: Path) -> dict[str, Any]:
    """config.json without what does not change the forward pass. Raises ModelInvalid."""
    return _forward(_json_object(directory / CONFIG_FILE))


def tokenizer_files(directory: Path) -> dict[str, bytes]:
    """What a client needs to build the tokenizer and template: contents by name, sorted.

    Beside the tokenizer's own files a config.json reduced to what AutoTokenizer reads. Empty when
    the model has no tokenizer. Raises ModelInvalid.
    """
    files: dict[str, bytes] = {}
    for name in _TOKENIZER_NAMES:
        path = directory / name
        if path.is_file():
            files[name] = path.read_bytes()
    templates = directory / "additional_chat_templates"
    if templates.is_dir():
        for path in sorted(templates.glob("*.jinja")):
            files[f"{templates.name}/{path.name}"] = path.read_bytes()
    if not files.keys() - {"generation_config.json"}:
        return {}
    config = _json_object(directory / CONFIG_FILE)
    kept = {name: config[name] for name in _TOKENIZER_CONFIG if config.get(name) is not None}
    files[CONFIG_FILE] = json.dumps(kept, sort_keys=True).encode()
    return dict(sorted(files.items()))


def linear_shapes(directory: Path) -> dict[str, tuple[int, int]]:
    """``(out, in)`` of every two-dimensional ``.weight``, by the module's full name.

    Read from the headers of the shards. Embeddings and the output layer are among them. Raises
    ModelInvalid.
    """
    shapes: dict[str, tuple[int, int]] = {}
    headers = read_headers(weight_shards(directory))
    for info in itertools.chain.from_iterable(headers.values()):
        module, dot, last = info.name.rpartition(".")
        if dot and last == "weight" and len(info.shape) == 2:
            shapes[module] = (info.shape[0], info.shape[1])
    return dict(sorted(shapes.items()))


def read_headers(shards: Sequence[Path]) -> dict[Path, list[TensorInfo]]:
    """The tensors of each shard, as its header says. Raises ModelInvalid."""
    found = {}
    for shard in shards:
        try:
            found[shard] = list(read_header(shard).values())
        except SafetensorsError as error:
            raise ModelInvalid(str(error), "model") from None
        except OSError as error:
            raise ModelInvalid(f"{shard}: cannot be read ({error.strerror})", "model") from None
    return found


def _forward(config: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in config.items():
        if name in _NOT_FORWARD:
            continue
        # Renamed by transformers 5; both spellings mean the same.
        name = "dtype" if name == "torch_dtype" and "dtype" not in config else name
        kept[name] = _forward(value) if isinstance(value, dict) else value
    return kept


def _json_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelInvalid(f"{path}: missing", "model") from None
    except OSError as error:
        raise ModelInvalid(f"{path}: cannot be read ({error.strerror})", "model") from None
    except (ValueError, RecursionError) as error:
        raise ModelInvalid(f"{path}: malformed JSON ({error})", "model") from None
    if not isinstance(found, dict):
        raise ModelInvalid(f"{path}: not a JSON object", "model")
    return found
