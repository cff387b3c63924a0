"""What images install is what pyproject.toml says."""

import pytest
from scripts.image_requirements import requirements

PROJECT = {
    "name": "ours",
    "dependencies": ["numpy>=2", "transformers>=5,<6"],
    "optional-dependencies": {
        "server": ["fastapi>=0.1", "uvicorn>=0.5; sys_platform != 'win32'"],
        "local": ["pyyaml>=6"],
        "operator": ["kopf>=1", "ours[local]"],
        "all": ["ours[operator,server]"],
    },
}
BASE = ["numpy>=2", "transformers>=5,<6"]
SERVER = ["fastapi>=0.1", "uvicorn>=0.5; sys_platform != 'win32'"]
OPERATOR = ["kopf>=1", "pyyaml>=6"]


@pytest.mark.parametrize(
    ("extras", "without", "wanted"),
    [
        pytest.param(["server"], [], [*BASE, *SERVER], id="an extra comes beside the base"),
        pytest.param(["operator"], [], [*BASE, *OPERATOR], id="an extra brings those it names"),
        pytest.param(
            ["all"], [], [*BASE, *OPERATOR, *SERVER], id="names of extras are followed to their end"
        ),
        pytest.param(
            ["server"], ["transformers"], ["numpy>=2", *SERVER], id="of the base some can stay out"
        ),
        pytest.param(
            ["server", "all"], [], [*BASE, *OPERATOR, *SERVER], id="nothing is named twice"
        ),
    ],
)
def test_requirements(extras: list[str], without: list[str], wanted: list[str]) -> None:
    assert requirements(PROJECT, extras, without) == sorted(wanted)


@pytest.mark.parametrize(
    ("extras", "without", "message"),
    [
        pytest.param(["serve"], [], "no extra 'serve'; there are all, local", id="extra"),
        pytest.param(["server"], ["fastapi"], "no requirement of the base: fastapi", id="left out"),
    ],
)
def test_a_name_that_is_unknown_is_an_error(
    extras: list[str], without: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        requirements(PROJECT, extras, without)
