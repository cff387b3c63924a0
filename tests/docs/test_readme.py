"""What the README shows is run here, and what it points to exists."""

import re
from itertools import count
from pathlib import Path

import pytest
import typer
import yaml
from tests.engine_record import read_record
from tests.engine_table import engine_table, with_table
from tests.servers import Server

from sampler_cli.main import app
from sampler_operator.spec.parse import parse

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_code_samples_from_two_servers(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")
    with Server() as first, Server() as second:
        here = code.replace("http://127.0.0.1:8001", first.url)
        here = here.replace("http://127.0.0.1:8002", second.url)
        assert here.count("http://127.0.0.1:") == 2
        exec(compile(here, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert sum("length" in line for line in lines) == 8
    assert sum("sha256:" in line for line in lines) == 8


def test_the_code_has_at_most_ten_lines() -> None:
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10


def test_the_commands_have_the_options_that_are_shown() -> None:
    (shown,) = (block for block in blocks("sh") if "sampler serve" in block)
    serve = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    options = {name for parameter in serve.params for name in parameter.opts}
    used = set(re.findall(r"--[a-z-]+", shown))
    assert used
    assert used <= options


def test_the_resource_that_is_shown_is_one() -> None:
    (shown,) = blocks("yaml")
    example = yaml.safe_load((ROOT / "manifests/examples/sim.yaml").read_text())
    assert parse(yaml.safe_load(shown)).metadata.name == example["metadata"]["name"]


def test_the_table_that_is_shown_is_what_kubectl_printed() -> None:
    (shown,) = blocks("console")
    assert shown == (ROOT / "docs/status-table.txt").read_text()


def test_the_table_of_engines_is_what_their_tests_have_shown() -> None:
    assert with_table(README, read_record()) == README


def test_the_table_of_engines_says_nothing_that_a_test_has_not_shown() -> None:
    record = read_record()
    held = record["vllm"]["held"].replace("S10.6 ", "")
    with pytest.raises(ValueError, match=r"vllm does not hold \['S10.6'\]"):
        engine_table({**record, "vllm": {**record["vllm"], "held": held}})


def test_the_make_targets_that_are_shown_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = set(re.findall(r"^make ([a-z-]+)", "\n".join(blocks("sh")), re.MULTILINE))
    assert shown
    assert shown <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    inside = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    dead = []
    for link in inside:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def anchors(page: Path) -> set[str]:
    """The names that headings get, as on code hosts."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        taken = (f"{name}-{number}" for number in count(1))
        found.add(name if name not in found else next(n for n in taken if n not in found))
    return found
