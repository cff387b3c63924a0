"""What may be imported where, as far as import-linter cannot say it."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[2] / "client"
CONTRACT_MAY_IMPORT = {"numpy", "msgspec", "sampler_api", *sys.stdlib_module_names}


def loaded_by(module: str) -> set[str]:
    """Names of the top-level modules that a fresh interpreter adds when it imports this one."""
    program = (
        "import json, sys; import numpy, msgspec; before = set(sys.modules); "
        f"import {module}; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def imports_of(path: Path) -> set[str]:
    """Top-level names that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


def test_the_contract_imports_only_numpy_msgspec_and_the_standard_library() -> None:
    foreign = {
        f"{path.name}: {name}"
        for path in (CLIENT / "sampler_api").rglob("*.py")
        for name in imports_of(path) - CONTRACT_MAY_IMPORT
    }
    assert foreign == set()


def test_importing_the_contract_loads_nothing_else() -> None:
    # Not a list of names of ours: numpy itself may load parts of numpy late.
    assert loaded_by("sampler_api") - CONTRACT_MAY_IMPORT == set()


@pytest.mark.skipif(
    not (CLIENT / "sampler_core" / "__init__.py").exists(), reason="sampler_core does not exist yet"
)
def test_importing_the_core_loads_no_heavy_library() -> None:
    heavy = {"transformers", "torch", "fastapi", "websockets", "jinja2", "peft"}
    assert loaded_by("sampler_core") & heavy == set()
