"""Tokenizers from a model's folder or id, or from the files that a server hands out."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sampler_api.errors import InvalidRequest, Unsupported

__all__ = ["load_tokenizer", "load_tokenizer_files"]

_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
# What the loader raises depends on the line of the broken file that it first stumbles over.
_LOAD_ERRORS: Final = (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError)


def load_tokenizer(model_id: str, **kwargs: Any) -> Any:
    """The tokenizer of a model id or path (``hf://`` may precede an id); ``kwargs`` go to its
    loader.

    Code of the model's repository runs only with ``trust_remote_code=True``. Raises InvalidRequest,
    which names ``model_id``.
    """
    scheme, separator, rest = model_id.partition("://")
    if separator and scheme != "hf":
        raise Unsupported(
            f"model_id: {scheme}:// is not supported; give the directory of a tokenizer",
            "model_id",
        )
    if model_id.startswith(("/", "./", "../", "~")) and not Path(model_id).expanduser().is_dir():
        raise InvalidRequest(f"model_id: there is no directory {model_id!r}", "model_id")
    from transformers import AutoTokenizer

    kwargs.setdefault("trust_remote_code", False)
    name = str(Path(model_id).expanduser()) if model_id.startswith("~") else model_id
    try:
        return AutoTokenizer.from_pretrained(rest if separator else name, **kwargs)
    except Exception as error:
        # The Rust half of a tokenizer raises nothing more precise than Exception itself.
        if type(error) is not Exception and not isinstance(error, _LOAD_ERRORS):
            raise
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise InvalidRequest(
            f"model_id: cannot load the tokenizer of {model_id!r}: {reason}", "model_id"
        ) from error


def load_tokenizer_files(files: Mapping[str, bytes]) -> Any:
    """The tokenizer of files by name; no network and no code of theirs is used.

    The files lie in a private folder while they are read. Raises InvalidRequest, which names
    ``tokenizer``.
    """
    if not files:
        raise InvalidRequest("tokenizer: there are no tokenizer files", "tokenizer")
    for name in files:
        if not _FILE_NAME.fullmatch(name):
            raise InvalidRequest(f"tokenizer: {name!r} is no plain file name", "tokenizer")
    with tempfile.TemporaryDirectory(prefix="sampler-tokenizer-") as folder:
        for name, data in files.items():
            Path(folder, name).write_bytes(data)
        try:
            return load_tokenizer(folder, local_files_only=True)
        except InvalidRequest as error:
            cause = error.__cause__
            reason = f"{type(cause).__name__}: {cause}".partition("\n")[0]
            raise InvalidRequest(
                f"tokenizer: {', '.join(sorted(files))} make no tokenizer: {reason}", "tokenizer"
            ) from error
