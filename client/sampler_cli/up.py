"""``sampler up``: a fleet on this machine, from the same file as on a cluster."""

import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["up"]


def up(
    file: Annotated[
        Path,
        typer.Option("--file", "-f", help="SamplerDeployment as YAML; - reads standard input."),
    ],
    volume: Annotated[
        list[str] | None,
        typer.Option(help="CLAIM=DIRECTORY in place of a claim or volume; repeatable."),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(help="NAME=DIRECTORY in place of a Secret, a file per key; repeatable."),
    ] = None,
    model_path: Annotated[
        str | None, typer.Option(help="Directory of the model, in place of spec.model.uri.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when all replicas are ready.")
    ] = False,
) -> None:
    """Run a fleet on this machine; Ctrl-C ends it.

    While the fleet runs, a second `sampler up` with an edited file rolls the change out and
    returns when all replicas are up to date.
    """
    from sampler_operator.errors import OperatorError
    from sampler_operator.local.places import Places, directory, pairs
    from sampler_operator.local.requests import (
        end_fleet,
        in_background,
        requested,
        wait_until_up,
    )
    from sampler_operator.local.state import read_state

    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
        places = Places(
            pairs(volume or (), "--volume"),
            pairs(secret or (), "--secret"),
            directory(model_path, "--model-path") if model_path else None,
        )
        request = requested(text, places)
        for note in request.prepared.notes:
            typer.echo(note)
        folder = request.folder
        is_new = not folder.holder()
        before = None if is_new else read_state(folder)
        digest = request.write()
        if is_new and not detach:
            from sampler_operator.local.__main__ import main

            raise typer.Exit(main(folder.name))
        if is_new:
            in_background(folder)
        try:
            wait_until_up(folder, digest, before, typer.echo)
        except BaseException:
            # A fleet that ran before goes on with what it can; a new one that cannot is no fleet.
            if is_new and folder.holder():
                end_fleet(folder, typer.echo)
            raise
    except (OperatorError, OSError) as error:
        typer.echo(f"sampler up: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f'fleet {folder.name} is up to date: RemoteSampler("local://{folder.name}")')
