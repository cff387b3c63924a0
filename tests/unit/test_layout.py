"""The shape of the repository: what must not exist, and what must not be written into a file."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TOP_LEVEL = {
    ".ci",
    ".dockerignore",
    ".github",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "bench",
    "charts",
    "client",
    "demo",
    "docs",
    "manifests",
    "operator",
    "pyproject.toml",
    "requirements",
    "sampler_server",
    "scripts",
    "tests",
}

# Paths of somebody's machine. Homes and work folders are never right in a repository; /tmp is,
# because programs and pods use it.
MACHINE_PATH = re.compile(rb"(?<![\w.-])/(?:home|Users|root|work)/[A-Za-z0-9._-]+/")


def repository_files() -> list[Path]:
    """What git tracks or would track; empty outside a checkout."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    return [Path(name) for name in listing.stdout.decode().split("\0") if name]


@pytest.fixture(scope="module")
def files() -> list[Path]:
    found = [path for path in repository_files() if (ROOT / path).is_file()]
    if not found:
        pytest.skip("not a git checkout")
    return found


@pytest.mark.parametrize("container", ["operator", "client", "sampler_server"])
def test_a_container_folder_is_not_a_package(container: str) -> None:
    # operator/__init__.py would shadow the standard library's operator and end every interpreter
    # that is started here.
    assert not (ROOT / container / "__init__.py").exists()


def test_test_folders_are_not_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_every_package_says_that_it_is_typed() -> None:
    packages = [path.parent for path in ROOT.glob("*/sampler_*/__init__.py")]
    assert packages
    assert [package.name for package in packages if not (package / "py.typed").exists()] == []


def test_the_top_level_has_only_expected_names(files: list[Path]) -> None:
    assert {path.parts[0] for path in files} - TOP_LEVEL == set()


def test_no_file_names_a_path_of_one_machine(files: list[Path]) -> None:
    hits = [
        f"{path}: {match[0].decode()}"
        for path in files
        for match in MACHINE_PATH.finditer((ROOT / path).read_bytes())
    ]
    assert hits == []
