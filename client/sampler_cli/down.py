"""``sampler down``: end a fleet of this machine."""

from typing import Annotated

import typer

__all__ = ["down"]


def down(
    name: Annotated[str, typer.Argument(help="Name of the fleet.")],
    now: Annotated[
        bool, typer.Option("--now", help="Kill the replicas instead of letting them drain.")
    ] = False,
) -> None:
    """End a fleet of this machine; its replicas hand over what they have, then nothing is left."""
    from sampler_operator.errors import OperatorError
    from sampler_operator.local.requests import end_fleet, folder_of

    try:
        end_fleet(folder_of(name), typer.echo, at_once=now)
    except (OperatorError, OSError) as error:
        typer.echo(f"sampler down: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"fleet {name} has ended")
