"""Wheels of CUDA without CUDA: the same names and versions, libraries that export the same symbols
and do nothing.

The package index's torch for Linux cannot be loaded without libraries of 2.7 GB that nothing calls
on a machine without GPUs, and has no smaller form there. These wheels let a Dockerfile install it
as it is, into an image that tests can build, load and throw away. They are made of what is
installed here.
"""

import os
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Final

__all__ = ["Symbol", "hollow_library", "hollow_wheels"]

# Its functions are called when torch is loaded, also without a GPU; it is small.
_REAL: Final = "nvidia-cuda-runtime"
# torch does without it on CPUs.
_ABSENT: Final = "triton"
_SMALL_BYTES: Final = 1 << 20
# Of several wheels of one version pip takes the one with the highest build number.
_BUILD: Final = "1"
# The loader would call them.
_CALLED: Final = frozenset({"_init", "_fini"})
_LIBRARY: Final = re.compile(r"\.so(\.\d+)*$")
_SONAME: Final = re.compile(r"Library soname: \[(.+)\]")


@dataclass(frozen=True, slots=True)
class Symbol:
    """What a library exports; ``size`` in bytes matters for data only."""

    name: str
    version: str
    is_data: bool
    size: int


def hollow_wheels(folder: Path) -> None:
    """Make those that ``folder`` lacks, and remove those of other versions."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {_file_name(each): each for each in _distributions()}
    for other in set(os.listdir(folder)) - wanted.keys():
        (folder / other).unlink()
    for name, distribution in wanted.items():
        if not (folder / name).exists():
            part = folder / f"{name}.part"
            _write(part, distribution)
            part.rename(folder / name)


def _distributions() -> Iterator[Distribution]:
    for each in distributions():
        name = each.metadata["Name"]
        if name == _ABSENT or (name.startswith("nvidia-") and name != _REAL):
            yield each


def _tags(distribution: Distribution) -> list[str]:
    told = distribution.read_text("WHEEL") or ""
    return re.findall(r"^Tag: (\S+)$", told, re.MULTILINE)


def _file_name(distribution: Distribution) -> str:
    name = re.sub(r"[-_.]+", "_", distribution.metadata["Name"])
    columns = zip(*(tag.split("-") for tag in _tags(distribution)), strict=True)
    tag = "-".join(".".join(sorted(set(column))) for column in columns)
    return f"{name}-{distribution.version}-{_BUILD}-{tag}.whl"


def _write(wheel: Path, distribution: Distribution) -> None:
    name = re.sub(r"[-_.]+", "_", distribution.metadata["Name"])
    about = f"{name}-{distribution.version}.dist-info"
    tags = "".join(f"Tag: {tag}\n" for tag in _tags(distribution))
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{about}/METADATA", distribution.read_text("METADATA") or "")
        form = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: false\n{tags}"
        archive.writestr(f"{about}/WHEEL", f"{form}Build: {_BUILD}\n")
        files = distribution.files or ()
        for file in files if distribution.metadata["Name"] != _ABSENT else ():
            at = Path(str(file.locate()))
            if _LIBRARY.search(file.name):
                is_small = at.stat().st_size < _SMALL_BYTES
                archive.writestr(str(file), at.read_bytes() if is_small else hollow_library(at))
        names = [*archive.namelist(), f"{about}/RECORD"]
        archive.writestr(f"{about}/RECORD", "".join(f"{each},,\n" for each in names))


def hollow_library(library: Path) -> bytes:
    """A shared library with the symbols of another one, of which every function ends the process
    with SIGILL."""
    symbols = list(_symbols(library))
    found = _SONAME.search(_readelf("--dynamic", library))
    soname = found[1] if found else library.name
    with tempfile.TemporaryDirectory() as scratch:
        source, versions, made = (Path(scratch) / name for name in ("a.s", "versions", "a.so"))
        source.write_text(_assembly(symbols))
        versions.write_text(_version_script(symbols))
        script = f"-Wl,--version-script={versions}"
        options = ("-shared", "-nostdlib", "-s", f"-Wl,-soname,{soname}", script)
        _run("gcc", *options, "-o", str(made), str(source))
        return made.read_bytes()


def _symbols(library: Path) -> Iterator[Symbol]:
    seen = set(_CALLED)
    for line in _readelf("--dyn-syms", library).splitlines():
        columns = line.split()
        # Num: Value Size Type Bind Vis Ndx Name
        if len(columns) < 8 or not columns[0].endswith(":") or columns[6] in ("UND", "ABS", "Ndx"):
            continue
        name, _, version = columns[7].partition("@")
        # CUDA is C. What of C++ a library exports, up to the standard library, others have too.
        if name.startswith("_Z") or name in seen:
            continue
        seen.add(name)
        is_data = columns[3] not in ("FUNC", "IFUNC", "NOTYPE")
        yield Symbol(name, version.lstrip("@"), is_data, int(columns[2], 0))


def _assembly(symbols: list[Symbol]) -> str:
    """All functions are one, and all data is one block of zeros."""
    functions = [symbol.name for symbol in symbols if not symbol.is_data]
    data = [symbol for symbol in symbols if symbol.is_data]
    lines = [".text"]
    for name in functions:
        lines += [f'.globl "{name}"', f'.type "{name}",@function', f'"{name}":']
    lines += ["ud2", ".data", ".balign 64"]
    for symbol in data:
        name = symbol.name
        lines += [f'.globl "{name}"', f'.type "{name}",@object', f'.size "{name}",{symbol.size}']
        lines.append(f'"{name}":')
    most = max((symbol.size for symbol in data), default=0)
    lines += [f".zero {most + 64}", '.section .note.GNU-stack,"",@progbits', ""]
    return "\n".join(lines)


def _version_script(symbols: list[Symbol]) -> str:
    by_version: dict[str, list[str]] = {}
    for symbol in symbols:
        # The linker's scripts know no such version, and torch needs none.
        version = "" if "-" in symbol.version else symbol.version
        by_version.setdefault(version, []).append(symbol.name)
    plain = by_version.pop("", [])
    if not by_version:
        return f"{{ global: {''.join(f'{name}; ' for name in plain)}local: *; }};\n"
    parts = [
        f"{version} {{ global: {''.join(f'{name}; ' for name in names)}}};\n"
        for version, names in by_version.items()
    ]
    return "".join(parts)


def _readelf(what: str, library: Path) -> str:
    return _run("readelf", "--wide", what, str(library))


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout
