"""``sampler down``: end a fleet of this machine."""

from typing import Annotated

import typer

from .failures import told

__all__ = ["down"]


def down(
    name: Annotated[str, typer.Argument(help="Name of the fleet.")],
    now: Annotated[
        bool, typer.Option("--now", help="Kill the replicas instead of letting them drain.")
    ] = False,
) -> None:
    """End a fleet of this machine; its replicas hand over what they have, then nothing is left."""
    with told("down"):
        from sampler_operator.local.requests import end_fleet, folder_of

        end_fleet(folder_of(name), typer.echo, at_once=now)
    typer.echo(f"fleet {name} has ended")
