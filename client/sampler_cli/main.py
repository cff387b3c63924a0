"""The ``sampler`` command's table of contents."""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from . import down, fetch, serve, status, up, version

__all__ = ["app"]

# typer exports only leaves of its errors; this is the base of those about usage.
_UsageError: Any = typer.BadParameter.__mro__[1]


class _Commands(TyperGroup):
    """Says in one line what is wrong with an option."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """As in typer, but for the form of an error."""
        if not extra.get("standalone_mode", True):
            return super().main(*args, **extra)
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
        except _UsageError as error:
            from sampler_core.termination import report_end

            report_end(f"sampler: {error.format_message()}")
            sys.exit(2)
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=_Commands,
    name="sampler",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("serve", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    serve.serve
)
app.command("up")(up.up)
app.command("status")(status.status)
app.command("down")(down.down)
app.command("fetch")(fetch.fetch)
app.command("version")(version.version)


@app.callback()
def main(context: typer.Context) -> None:
    """Sampling fleets for RL post-training."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


if __name__ == "__main__":
    app()
