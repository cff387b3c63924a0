"""Model files from a hub, once for all who share a folder, under the commit that they belong to.

A folder ``<cache>/<owner>--<name>@<commit>`` is complete or not there. Whoever downloads holds a
lock and works in a draft beside it, which an interrupted download leaves for the next one to go on
with.
"""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from sampler_api.errors import InvalidRequest, ModelInvalid

from .base_files import weight_shards

__all__ = ["FetchedModel", "fetch_model", "hub_repository", "link_model"]

_REPOSITORY: Final = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
# What a sampler reads; many repositories hold the same weights in other formats too.
_WANTED: Final = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.py", "*.tiktoken", "*.txt")
_UNWANTED: Final = ("original/*", "onnx/*", "consolidated*.safetensors")
# The hub's client keeps its notes about a download below the folder.
_NOTES: Final = ".cache"


class FetchedModel(msgspec.Struct, frozen=True):
    """A model on this machine; ``is_new``: it was downloaded just now."""

    directory: str
    repository: str
    commit: str
    is_new: bool


def hub_repository(model: str) -> str:
    """``owner/name`` of ``hf://owner/name``; the scheme may be left out. Raises InvalidRequest."""
    scheme, separator, rest = model.partition("://")
    if separator and scheme != "hf":
        raise InvalidRequest(
            f"model: {model!r} is not downloaded, only hf://owner/name is; give what is on a disk "
            "to sampler serve --model as a directory",
            "model",
        )
    repository = rest if separator else model
    if not _REPOSITORY.fullmatch(repository):
        raise InvalidRequest(f"model: {model!r} is not hf://owner/name", "model")
    return repository


def fetch_model(
    repository: str,
    revision: str,
    cache: Path,
    waiting: Callable[[], None] = lambda: None,
) -> FetchedModel:
    """The files of a repository at a branch, tag or commit.

    A commit that is there already needs no hub. ``waiting`` is called when another process
    downloads the same. Raises ModelInvalid with one clear line.
    """
    with _told(repository):
        cache.mkdir(parents=True, exist_ok=True)
        commit = revision if _COMMIT.fullmatch(revision) else _commit(repository, revision)
        directory = cache / f"{repository.replace('/', '--')}@{commit}"
        is_new = False
        if not directory.is_dir():
            with _locked(cache / f".{directory.name}.lock", waiting):
                # Whoever held the lock before us has done it.
                is_new = not directory.is_dir()
                if is_new:
                    _download(repository, commit, directory)
    return FetchedModel(str(directory), repository, commit, is_new)


def link_model(directory: str, link: Path) -> None:
    """Let ``link`` lead to a model; an older link is replaced at once. Raises InvalidRequest."""
    if link.exists() and not link.is_symlink():
        raise InvalidRequest(f"link: {link} exists and is no link", "link")
    draft = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        draft.symlink_to(Path(directory).resolve())
        draft.rename(link)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise InvalidRequest(f"link: {link}: {error.strerror}", "link") from None


def _commit(repository: str, revision: str) -> str:
    from huggingface_hub import HfApi

    commit = HfApi().model_info(repository, revision=revision).sha
    if commit is None:
        raise ModelInvalid(f"{repository}: the hub names no commit of {revision!r}", "model")
    return commit


def _download(repository: str, commit: str, directory: Path) -> None:
    from huggingface_hub import snapshot_download

    draft = directory.with_name(f".{directory.name}.draft")
    snapshot_download(
        repository,
        revision=commit,
        local_dir=draft,
        allow_patterns=list(_WANTED),
        ignore_patterns=list(_UNWANTED),
    )
    try:
        weight_shards(draft)
    except ModelInvalid as error:
        shutil.rmtree(draft)
        what = error.message.replace(str(draft), f"{repository}@{commit}")
        raise ModelInvalid(what, "model") from None
    shutil.rmtree(draft / _NOTES, ignore_errors=True)
    for path in [*draft.rglob("*"), draft]:
        _sync(path)
    draft.rename(directory)
    _sync(directory.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    with path.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        # Closing the file, also by dying, gives the lock back.
        yield


@contextlib.contextmanager
def _told(repository: str) -> Iterator[None]:
    """What goes wrong, as ModelInvalid of one line that says what to do."""
    from huggingface_hub import errors

    # The hub's client has changed its HTTP library before; its errors are that library's too.
    transport_error: Any = errors.HfHubHTTPError.__mro__[1]
    try:
        yield
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        is_gated = isinstance(error, errors.GatedRepoError)
        what = "is gated" if is_gated else "is not there, or private"
        raise ModelInvalid(
            f"{repository} {what}; check the name, and that HF_TOKEN may read it", "model"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelInvalid(f"{repository} has no such revision", "revision") from error
    except errors.HfHubHTTPError as error:
        raise ModelInvalid(f"{repository}: the hub answered: {_first(error)}", "model") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, transport_error) as error:
        raise ModelInvalid(
            f"{repository}: the hub cannot be reached ({_first(error)}); a --revision that is a "
            "commit needs it only once",
            "model",
        ) from error
    except OSError as error:
        place = f" {error.filename}" if error.filename else ""
        reason = error.strerror or _first(error)
        raise ModelInvalid(f"{repository}:{place} {reason}", "model") from error


def _first(error: Exception) -> str:
    """The hub's client says the same thing on many lines."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
