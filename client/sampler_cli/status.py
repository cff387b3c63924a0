"""``sampler status``: fleets of this machine as ``kubectl get -o wide`` would show them."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from .failures import told

if TYPE_CHECKING:
    from rich.table import Table

    from sampler_operator.local.state import FleetState

__all__ = ["status"]

_WIDTH = 4000


def status(
    name: Annotated[str | None, typer.Argument(help="Name of a fleet; all if left out.")] = None,
) -> None:
    """Show the fleets of this machine; of one fleet also its replicas and conditions."""
    from rich.console import Console

    with told("status"):
        from sampler_operator.local.requests import fleets

        states = fleets(name)
    # As with kubectl nothing is cut short; a terminal wraps what is too long for it.
    console = Console(highlight=False, width=_WIDTH)
    console.print(_fleets(states))
    if name:
        console.print(_pods(states[0]))
        console.print(_conditions(states[0]))


def _table(*columns: str) -> "Table":
    from rich.table import Table

    return Table(*(column.upper() for column in columns), box=None, pad_edge=False)


def _fleets(states: "list[FleetState]") -> "Table":
    from sampler_operator.local.columns import row

    rows = [row(state.sd, datetime.now(UTC)) for state in states]
    table = _table(*rows[0])
    for cells in rows:
        table.add_row(*cells.values())
    return table


def _pods(state: "FleetState") -> "Table":
    table = _table("Pod", "Ready", "State", "Restarts", "Process", "Address", "Log", "Message")
    for pod in state.pods:
        table.add_row(
            pod.name,
            str(pod.ready),
            pod.state,
            str(pod.restarts),
            str(pod.pid or ""),
            " ".join(pod.urls),
            pod.log,
            pod.message,
        )
    return table


def _conditions(state: "FleetState") -> "Table":
    table = _table("Condition", "Status", "Reason", "Message")
    for condition in state.sd.get("status", {}).get("conditions", ()):
        table.add_row(*(str(condition[key]) for key in ("type", "status", "reason", "message")))
    return table
