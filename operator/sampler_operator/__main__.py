"""``sampler-operator run``: the operator of a cluster."""

import typer

__all__ = ["app"]

app = typer.Typer(name="sampler-operator", add_completion=False, pretty_exceptions_enable=False)

if __name__ == "__main__":
    app()
