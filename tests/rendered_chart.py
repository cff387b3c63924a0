"""The chart as helm renders it, and the table of its values."""

import functools
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from tests.kube_tools import kube_tool

__all__ = [
    "CHART",
    "EVERYTHING_ON",
    "NAMESPACE",
    "RELEASE",
    "Object",
    "RenderError",
    "default_values",
    "find",
    "lint",
    "nested",
    "of_kind",
    "render",
    "value_schema",
]

CHART: Final = Path(__file__).parent.parent / "charts" / "sampler-operator"
EVERYTHING_ON: Final[dict[str, Any]] = yaml.safe_load((CHART / "everything-on.yaml").read_text())
RELEASE: Final = "sampler-operator"
NAMESPACE: Final = "sampler-system"

Object = dict[str, Any]

# The CRD is long, and PyYAML in C ten times as fast.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class RenderError(Exception):
    """helm refuses; the message is helm's own."""


def render(
    values: Mapping[str, Any] | None = None, *, chart: Path = CHART, release: str = RELEASE
) -> list[Object]:
    """The objects of the chart with ``values``, tests among them. Raises RenderError."""
    return list(yaml.load_all(_rendered(json.dumps(values or {}), chart, release), _LOADER))


def lint() -> str:
    """What helm's own linter says of the chart with its defaults. Raises RenderError."""
    return _helm("lint", "--strict", str(CHART))


@functools.cache
def _rendered(values: str, chart: Path, release: str) -> str:
    words = ("template", release, str(chart), "--namespace", NAMESPACE, "--values", "-")
    return _helm(*words, text=values)


def _helm(*words: str, text: str = "") -> str:
    # Without a cluster helm believes in an old one.
    done = subprocess.run(
        (str(kube_tool("helm")), *words, "--kube-version", "1.36.0"),
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={"HOME": "/nonexistent", "PATH": os.environ["PATH"]},
    )
    if done.returncode != 0:
        raise RenderError(done.stdout + done.stderr)
    return done.stdout


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """Those of a kind."""
    return [each for each in objects if each["kind"] == kind]


def find(objects: list[Object], kind: str, name: str = RELEASE, namespace: str = "") -> Object:
    """The one of this kind and name, which may be ``*``, and in this namespace if given."""
    [found] = [
        each
        for each in of_kind(objects, kind)
        if name in ("*", each["metadata"]["name"])
        and namespace in ("", each["metadata"].get("namespace"))
    ]
    return found


def nested(path: str, value: Any) -> dict[str, Any]:
    """Values with one of them set: ``image.tag`` is ``tag`` in ``image``."""
    for name in reversed(path.split(".")):
        value = {name: value}
    made: dict[str, Any] = value
    return made


def value_schema() -> dict[str, Any]:
    """values.schema.yaml."""
    read: dict[str, Any] = yaml.safe_load((CHART / "values.schema.yaml").read_text())
    return read


def default_values() -> dict[str, Any]:
    """values.yaml."""
    read: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return read
