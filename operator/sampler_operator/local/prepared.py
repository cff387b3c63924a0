"""From a file of YAML to what a runtime is given: the one SamplerDeployment in it, checked whole,
so that whatever is wrong is told before anything starts."""

from dataclasses import dataclass
from typing import Any

import yaml

from .. import names
from ..errors import InvalidSpec
from ..objects import Manifest
from ..pod import LAYOUTS, chosen_template
from ..schema.defaults import with_defaults
from ..spec.parse import parse
from .idle import idle_fields
from .localized import localized
from .places import Places
from .volumes import check_volumes

__all__ = ["LOCAL_IMAGE", "Prepared", "name_in", "prepared"]

LOCAL_IMAGE = "local"
"""Stands for the image where nothing is pulled."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A manifest for this machine, with the defaults of the schema, and a line for each
    thing of the file that does nothing here."""

    manifest: Manifest
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the fleet."""
        return str(self.manifest["metadata"]["name"])


def prepared(text: str, places: Places, devices: int) -> Prepared:
    """Read and check. Raises InvalidSpec."""
    given, others = _documents(text)
    manifest = with_defaults(localized(given, places, devices))
    sd = parse(manifest)
    template = chosen_template(sd, {}, LOCAL_IMAGE, LAYOUTS)
    check_volumes(template.manifest["spec"], places)
    notes = []
    if others:
        notes.append(f"not used on one machine: {', '.join(others)}")
    idle = idle_fields(given)
    if idle:
        notes.append(f"without meaning on one machine: {', '.join(f'spec.{f}' for f in idle)}")
    return Prepared(manifest, tuple(notes))


def name_in(text: str) -> str:
    """The name of the fleet that a file is about. Raises InvalidSpec."""
    return parse(_documents(text)[0]).metadata.name


def _documents(text: str) -> tuple[Manifest, list[str]]:
    try:
        documents = [each for each in yaml.safe_load_all(text) if each is not None]
    except yaml.YAMLError as error:
        raise InvalidSpec(f"the file is no YAML: {' '.join(str(error).split())}") from None
    wanted = [each for each in documents if _kind(each) == names.KIND]
    others = [_kind(each) for each in documents if _kind(each) != names.KIND]
    if len(wanted) != 1:
        found = f"; it has {', '.join(others)}" if others else ""
        raise InvalidSpec(f"the file must hold one {names.KIND}, not {len(wanted)}{found}")
    return wanted[0], others


def _kind(document: Any) -> str:
    kind = document.get("kind") if isinstance(document, dict) else None
    return str(kind) if kind else "a document without kind"
