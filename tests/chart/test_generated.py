"""What `make generate` writes is what is committed, and says what its sources say."""

import tomllib
from pathlib import Path

import pytest
import yaml
from scripts.generate_chart import INSTALL, crd_template, files, install_yaml
from tests.rendered_chart import CHART, NAMESPACE, find, render

from sampler_operator.schema import crd

ROOT = Path(__file__).parents[2]
MADE = files()


@pytest.mark.parametrize("path", MADE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_what_make_generate_writes(path: Path) -> None:
    assert path.read_text() == MADE[path]


def test_the_install_manifest_is_what_make_generate_writes() -> None:
    assert INSTALL.read_text() == install_yaml()


def test_the_chart_has_the_version_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]


def test_the_crd_of_the_chart_is_that_of_the_models_to_the_last_number() -> None:
    rendered = find(render(), "CustomResourceDefinition", "samplerdeployments.sampler.dev")
    assert rendered["spec"] == crd()["spec"]


def test_a_crd_that_helm_would_take_for_a_template_is_refused() -> None:
    text = "apiVersion: v1\nkind: X\nmetadata:\n  name: x\nspec:\n  description: '{{ now }}'\n"
    with pytest.raises(ValueError, match="take for its own"):
        crd_template(text)


def test_the_install_manifest_begins_with_its_namespace_and_belongs_to_no_release() -> None:
    objects = list(yaml.safe_load_all(INSTALL.read_text()))
    assert (objects[0]["kind"], objects[0]["metadata"]["name"]) == ("Namespace", NAMESPACE)
    text = INSTALL.read_text()
    assert "helm.sh/" not in text
    assert "managed-by: Helm" not in text
    inside = {each["metadata"].get("namespace", NAMESPACE) for each in objects}
    assert inside == {NAMESPACE}
    assert {each["kind"] for each in objects} >= {"CustomResourceDefinition", "ClusterRole"}
