"""Which base a model directory is: one digest over the content of weights, config and tokenizer."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from sampler_api.names import SHA256_PREFIX

from .base_files import forward_config, linear_shapes, tokenizer_files, weight_shards
from .digest_cache import cache_directory, file_sha256

__all__ = ["base_digest", "linear_shapes", "tokenizer_digest", "tokenizer_files"]

_THREADS: Final = 8


def base_digest(model_dir: str | Path, cache: Path | None = None) -> str:
    """``sha256:…`` of a base: every weight shard's content, the config, the tokenizer's files.

    Never a fingerprint of headers and sizes: two steps of one full fine-tune differ. Shards are
    hashed in threads; digests are remembered in ``cache`` (default :func:`cache_directory`). Raises
    ModelInvalid.
    """
    directory = Path(model_dir)
    shards = weight_shards(directory)
    known = cache_directory() if cache is None else cache
    with ThreadPoolExecutor(min(_THREADS, len(shards)), "base-digest") as pool:
        digests = list(pool.map(lambda shard: file_sha256(shard, known), shards))
    parts = {
        "shards": [[shard.name, digest] for shard, digest in zip(shards, digests, strict=True)],
        "config": forward_config(directory),
        "tokenizer": tokenizer_digest(tokenizer_files(directory)),
    }
    content = json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()
    return SHA256_PREFIX + hashlib.sha256(b"sampler-base-1\0" + content).hexdigest()


def tokenizer_digest(files: Mapping[str, bytes]) -> str:
    """``sha256:…`` of a tokenizer's files, names included."""
    parts = [[name, hashlib.sha256(files[name]).hexdigest()] for name in sorted(files)]
    content = json.dumps(parts, separators=(",", ":")).encode()
    return SHA256_PREFIX + hashlib.sha256(b"sampler-tokenizer-1\0" + content).hexdigest()
