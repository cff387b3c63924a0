"""How commands about local fleets fail: one line on stderr and exit code 1."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

__all__ = ["told"]


@contextmanager
def told(command: str) -> Iterator[None]:
    """Tell what was raised inside; a package that is not installed with the extra that has it."""
    try:
        from sampler_operator.errors import OperatorError
    except ModuleNotFoundError as error:
        raise _failed(command, _missing(error)) from None
    try:
        yield
    except ModuleNotFoundError as error:
        raise _failed(command, _missing(error)) from None
    except (OperatorError, OSError, UnicodeDecodeError) as error:
        raise _failed(command, str(error)) from None


def _missing(error: ModuleNotFoundError) -> str:
    return f"{error.name} is not installed; pip install 'sampler-operator[local,server]'"


def _failed(command: str, text: str) -> typer.Exit:
    typer.echo(f"sampler {command}: {text}", err=True)
    return typer.Exit(1)
