"""``sampler version``."""

import typer

__all__ = ["version"]


def version() -> None:
    """Print the version of the package and of the session protocol."""
    from importlib import metadata

    from sampler_api.names import SUBPROTOCOL

    typer.echo(f"sampler-operator {metadata.version('sampler-operator')} ({SUBPROTOCOL})")
