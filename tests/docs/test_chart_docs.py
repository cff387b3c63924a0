"""What the chart's page tells to apply scales a SamplerDeployment by what replicas export."""

import re
from pathlib import Path
from typing import Any, Final

import yaml

PAGE: Final = Path(__file__).parents[2] / "charts" / "sampler-operator" / "README.md"
SERVER: Final = PAGE.parents[2] / "sampler_server" / "sampler_server" / "metrics.py"

EXAMPLE: Final = PAGE.parents[2] / "manifests" / "examples" / "autoscaled.yaml"

Object = dict[str, Any]


def autoscaling() -> dict[str, Object]:
    """The objects of the section, by kind."""
    _, _, rest = PAGE.read_text().partition("\n## Autoscaling\n")
    section, _, _ = rest.partition("\n## ")
    blocks = [yaml.safe_load(each) for each in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)]
    return {block.get("kind", ""): block for block in blocks}


def test_autoscalers_scale_fleets_and_never_to_zero() -> None:
    objects = autoscaling()
    least = {"HorizontalPodAutoscaler": "minReplicas", "ScaledObject": "minReplicaCount"}
    assert objects.keys() == {"", *least}
    for kind, field in least.items():
        spec = objects[kind]["spec"]
        assert spec["scaleTargetRef"]["kind"] == "SamplerDeployment"
        assert spec["scaleTargetRef"]["apiVersion"] == "sampler.dev/v1alpha1"
        assert spec[field] >= 1


def test_they_ask_for_a_metric_that_replicas_have() -> None:
    exported = set(re.findall(r'"(sampler_\w+)"', SERVER.read_text()))
    named = re.findall(r"sampler_backlog_\w+", yaml.safe_dump(autoscaling()))
    assert set(named) == {"sampler_backlog_sequences"} <= exported
    assert len(named) == 3


def test_the_fleet_of_the_example_leaves_its_size_to_the_autoscaler() -> None:
    fleet, scaler = yaml.safe_load_all(EXAMPLE.read_text())
    assert fleet["kind"] == "SamplerDeployment"
    assert "replicas" not in fleet["spec"]
    assert scaler["spec"]["minReplicas"] >= 1
