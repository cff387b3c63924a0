"""``sampler up``: a fleet on this machine, from the same file as on a cluster."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .failures import told

if TYPE_CHECKING:
    from sampler_operator.local.requests import Request
    from sampler_operator.local.state import FleetState

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
    with told("up"):
        from sampler_operator.local.places import Places, directory, pairs
        from sampler_operator.local.requests import requested

        text = sys.stdin.read() if str(file) == "-" else file.read_text()
        places = Places(
            pairs(volume or (), "--volume"),
            pairs(secret or (), "--secret"),
            directory(model_path, "--model-path") if model_path else None,
        )
        request = requested(text, places)
        for note in request.prepared.notes:
            typer.echo(note)
        name = request.folder.name
        if request.folder.holder():
            state = _hand_over(request)
        elif detach:
            state = _start(request)
        else:
            from sampler_operator.local.__main__ import main

            request.write()
            raise typer.Exit(main(name))
    if state.is_paused:
        typer.echo(f"fleet {name}: {state.condition('Progressing')['message']}")
    else:
        typer.echo(f'fleet {name} is up to date: RemoteSampler("local://{name}")')


def _hand_over(request: "Request") -> "FleetState":
    """To the runtime that is there; when the change fails, the fleet goes on with what it can."""
    from sampler_operator.local.requests import wait_until_up
    from sampler_operator.local.state import read_state

    before = read_state(request.folder)
    return wait_until_up(request.folder, request.write(), before, typer.echo)


def _start(request: "Request") -> "FleetState":
    """A runtime in the background; of a fleet that cannot start nothing is left but its logs."""
    from sampler_operator.local.requests import in_background, wait_until_up

    digest = request.write()
    runtime = in_background(request.folder)
    try:
        return wait_until_up(request.folder, digest, None, typer.echo)
    except BaseException:
        runtime.terminate()
        runtime.wait()
        raise
