"""What an image installs before the project's own code: ``image_requirements.py EXTRAS [WITHOUT]``.

Prints requirements of pyproject.toml, one a line: the base's and those of EXTRAS, separated by
commas, but the projects named in WITHOUT. So that layer of the image depends on these lines alone.
"""

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

__all__ = ["requirements"]

_NAMED: Final = re.compile(r"(?P<name>[\w.-]+)(\[(?P<extras>[\w,-]+)\])?")


def requirements(
    project: Mapping[str, Any], extras: Sequence[str], without: Sequence[str] = ()
) -> list[str]:
    """Those of the base and of ``extras``, sorted. Raises ValueError for a name that is unknown."""
    base: list[str] = project["dependencies"]
    absent = set(without) - {_parts(requirement)[0] for requirement in base}
    if absent:
        raise ValueError(f"no requirement of the base: {', '.join(sorted(absent))}")
    kept = [requirement for requirement in base if _parts(requirement)[0] not in without]
    return sorted({*kept, *(found for extra in extras for found in _of_extra(project, extra))})


def _of_extra(project: Mapping[str, Any], extra: str) -> Iterator[str]:
    known: dict[str, list[str]] = project["optional-dependencies"]
    if extra not in known:
        raise ValueError(f"no extra {extra!r}; there are {', '.join(sorted(known))}")
    for requirement in known[extra]:
        name, own = _parts(requirement)
        if name == project["name"]:
            for each in own:
                yield from _of_extra(project, each)
        else:
            yield requirement


def _parts(requirement: str) -> tuple[str, list[str]]:
    found = _NAMED.match(requirement)
    assert found is not None, f"no requirement: {requirement}"
    return found["name"], (found["extras"] or "").split(",")


if __name__ == "__main__":
    words = [word.split(",") for word in sys.argv[1:3]]
    with Path("pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    try:
        print(*requirements(project, *words), sep="\n")
    except ValueError as error:
        sys.exit(f"image_requirements.py: {error}")
