"""``sampler fetch``: a model's files on this machine before anything serves them."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["fetch"]

_FAILED = 1
_USAGE = 2


def fetch(
    model: Annotated[str, typer.Argument(help="hf://owner/name.")],
    revision: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "main",
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of models.", show_default="below XDG_CACHE_HOME"),
    ] = None,
    link: Annotated[
        Path | None, typer.Option(help="Link to be made to the model, for sampler serve --model.")
    ] = None,
) -> None:
    """Download a model under its commit, unless it is there; one JSON line says where.

    Processes that share the folder download once; an interrupted download goes on. A private or
    gated model needs HF_TOKEN.
    """
    import sys

    import msgspec

    from sampler_api.errors import InvalidRequest, ModelInvalid
    from sampler_core.digest_cache import cache_directory
    from sampler_core.model_fetch import fetch_model, hub_repository, link_model
    from sampler_core.termination import report_end

    def waiting() -> None:
        typer.echo("another process downloads this model; waiting for it", err=True)

    try:
        repository = hub_repository(model)
        if not sys.stderr.isatty():
            from huggingface_hub.utils.tqdm import disable_progress_bars

            disable_progress_bars()
        found = fetch_model(repository, revision, cache or cache_directory("models"), waiting)
        if link is not None:
            link_model(found.directory, link)
    except InvalidRequest as error:
        report_end(f"sampler fetch: {error.message}")
        raise typer.Exit(_USAGE) from None
    except ModelInvalid as error:
        report_end(f"sampler fetch: {error.message}")
        raise typer.Exit(_FAILED) from None
    typer.echo(msgspec.json.encode(found).decode())
