"""Templates by name, and what ``set_template`` takes."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from sampler_api.errors import InvalidRequest, Unsupported

__all__ = ["register_template", "resolve_template"]

T = TypeVar("T", bound=type)

_MODEL_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

_templates: dict[str, type[Any]] = {}


def register_template(cls: T) -> T:
    """Class decorator: ``set_template`` takes the class by its name."""
    _templates[cls.__name__] = cls
    return cls


def resolve_template(
    template_cls: Any,
    model_id: str | None = None,
    *,
    files: Callable[[], Mapping[str, bytes]] | None = None,
    **kwargs: Any,
) -> Any:
    """The template that a class, an instance, a registered name, or a model id or path stands for.

    An instance is anything with ``encode`` and ``decode``. ``files`` gives the tokenizer files of
    the served model; they are asked for when a class with ``from_files`` is named without
    ``model_id``. ``kwargs`` are the constructor's. Raises InvalidRequest.
    """
    if isinstance(template_cls, type):
        return _make(template_cls, model_id, files, kwargs)
    if isinstance(template_cls, str):
        if template_cls in _templates:
            return _make(_templates[template_cls], model_id, files, kwargs)
        _check_model(template_cls, kwargs.get("cache_dir"))
        if model_id is not None and model_id != template_cls:
            raise _fail(f"no template is called {template_cls!r} (there are {_names()})")
        return _make(_templates["Template"], template_cls, None, kwargs)
    is_template = all(callable(getattr(template_cls, n, None)) for n in ("encode", "decode"))
    if not is_template:
        kind = type(template_cls).__name__
        raise _fail(f"must be a class, a name, a model id, or have encode and decode; not {kind}")
    if model_id is not None or kwargs:
        name = "model_id" if model_id is not None else next(iter(kwargs))
        raise InvalidRequest(f"{name}: a template that is made already takes no arguments", name)
    return template_cls


def _make(
    cls: type[Any],
    model_id: str | None,
    files: Callable[[], Mapping[str, bytes]] | None,
    kwargs: Mapping[str, Any],
) -> Any:
    if model_id is not None:
        return cls(model_id=model_id, **kwargs)
    if "tokenizer" not in kwargs and hasattr(cls, "from_files"):
        if files is None:
            raise InvalidRequest("model_id: missing; name the template's model", "model_id")
        return cls.from_files(files(), **kwargs)
    return cls(**kwargs)


def _check_model(name: str, cache_dir: str | None) -> None:
    """Refuse what is no model, before a hub is asked for it again and again."""
    scheme, separator, rest = name.partition("://")
    if separator and scheme != "hf":
        raise Unsupported(
            f"template_cls: {scheme}:// is not supported; give a model id or the directory of a "
            "tokenizer",
            "template_cls",
        )
    model = rest if separator else name
    # No path at all is the working directory to Path.
    is_model = model and (
        _MODEL_ID.fullmatch(model)
        or Path(model).expanduser().is_dir()
        or _is_cached(model, cache_dir)
    )
    if not is_model:
        raise _fail(
            f"no template is called {name!r} (there are {_names()}), no such directory is here, "
            "and a model id is owner/name"
        )


def _is_cached(model: str, cache_dir: str | None) -> bool:
    """The hub's cache has it: a few old models have ids without an owner."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(cache_dir or HF_HUB_CACHE, "models--" + model.replace("/", "--")).is_dir()


def _names() -> str:
    return ", ".join(sorted(_templates))


def _fail(text: str) -> InvalidRequest:
    return InvalidRequest(f"template_cls: {text}", "template_cls")
