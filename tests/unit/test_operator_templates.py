"""Pod templates: golden ones for each layout, what they may contain, and which one is chosen."""

import difflib
import json
from collections.abc import Mapping
from typing import Any

import pytest
from tests.golden_templates import GOLDEN, Golden
from tests.spec_cases import EVERYTHING, MINIMAL, changed, manifest

from sampler_operator import names
from sampler_operator.objects import Manifest
from sampler_operator.pod import LAYOUTS, Template, chosen_template
from sampler_operator.spec import SamplerDeployment
from sampler_operator.spec.parse import parse

NAMES = {
    "sim",
    "torch-hub-cpu",
    "torch-two-ranks",
    "torch-claim-gpu",
    "vllm-two-gpus",
    "everything-on",
}


def lines(template: Manifest) -> list[str]:
    return json.dumps(template, indent=1, sort_keys=True).splitlines()


@pytest.mark.parametrize("golden", GOLDEN, ids=str)
def test_a_released_layout_gives_the_same_template_for_ever(golden: Golden) -> None:
    built = golden.built()
    if built != golden.template:
        diff = difflib.unified_diff(lines(golden.template), lines(built), "released", "now", n=2)
        pytest.fail(
            f"{golden} has changed: an upgrade of the operator would restart every such pod, in the"
            " middle of training. Leave the layout as it is and add one with a new number (and its"
            " golden templates). Only before the layout is released: delete the .json, run"
            " python -m tests.golden_templates, and look at the difference.\n" + "\n".join(diff),
            pytrace=False,
        )


def test_every_layout_has_all_golden_templates() -> None:
    found: dict[int, set[str]] = {layout: set() for layout in LAYOUTS}
    for golden in GOLDEN:
        found[golden.layout].add(golden.name)
    assert found == dict.fromkeys(LAYOUTS, NAMES)


@pytest.mark.parametrize("golden", GOLDEN, ids=str)
def test_what_a_server_writes_to_is_mounted(golden: Golden) -> None:
    """The root file system is read-only, so each writable place needs a volume of its own."""
    server = golden.template["spec"]["containers"][0]
    writable = {m["mountPath"] for m in server["volumeMounts"] if not m.get("readOnly")}
    places = {v["value"] for v in server["env"] if v["name"].endswith(("HOME", "TMPDIR", "_DIR"))}
    assert places
    for place in places:
        assert any(place == path or place.startswith(f"{path}/") for path in writable), place


# Golden templates were made with defaults left out; an API server fills them in.


def test_defaults_that_the_api_server_fills_in_change_no_template() -> None:
    short = {"model": {"uri": "hf://owner/model"}, "engine": {"torch": {}}, "lora": {}}
    filled = {
        "model": {"uri": "hf://owner/model", "trustRemoteCode": False},
        "engine": {
            "torch": {"dtype": "auto", "batchInvariant": False},
            "logprobsMode": "processed",
            "stallSeconds": 10,
            "orphanSeconds": 30,
        },
        "replicas": 1,
        "tensorParallelSize": 1,
        "enginesPerGPU": 1,
        "lora": {"maxRank": 16, "maxAdapters": 8, "publish": True, "storeSizeLimit": "20Gi"},
        "gpu": {"resourceName": "nvidia.com/gpu"},
        "shmSize": "1Gi",
        "startupTimeoutSeconds": 3600,
        "minReadySeconds": 0,
        "rollout": {"strategy": "RollingUpdate", "maxSurge": 0, "drainSeconds": 30},
        "paused": False,
        "disruptionBudget": {"enabled": True, "maxUnavailable": 1},
        "networkPolicy": {"enabled": False},
    }
    assert built(short) == built(filled)


def built(spec: Mapping[str, Any]) -> Manifest:
    return LAYOUTS[1](parse(manifest(dict(spec))), "acme/default:1")


# Choosing

OLD, NEW = "acme/torch:1", "acme/torch:2"


def first_layout(sd: SamplerDeployment, image: str) -> Manifest:
    return {"layout": 1, "image": sd.spec.image or image, "drain": sd.spec.rollout.drain_seconds}


def second_layout(sd: SamplerDeployment, image: str) -> Manifest:
    return first_layout(sd, image) | {"layout": 2}


BOTH = {1: first_layout, 2: second_layout}
SD = parse(manifest(MINIMAL))
CHANGED = parse(manifest(changed(MINIMAL, {"rollout": {"drainSeconds": 5}})))
SCALED = parse(manifest(changed(MINIMAL, {"replicas": 9})))


def remembered(sd: SamplerDeployment = SD, **others: str) -> dict[str, str]:
    """Annotations of a Deployment that the former operator, with one layout, has written."""
    made = chosen_template(sd, {}, OLD, {1: first_layout}).annotations()
    return made | {f"{names.GROUP}/{name.replace('_', '-')}": text for name, text in others.items()}


def without(name: str) -> dict[str, str]:
    made = remembered()
    del made[name]
    return made


CHOICES: dict[str, tuple[SamplerDeployment, Mapping[str, str], int, str]] = {
    "a new fleet gets the newest": (SD, {}, 2, NEW),
    "an unchanged spec keeps its layout and its default image": (SD, remembered(), 1, OLD),
    "scaling keeps the layout": (SCALED, remembered(), 1, OLD),
    "a changed spec moves to the newest in one step": (CHANGED, remembered(), 2, NEW),
    "a spec that was changed back before it was seen keeps its layout": (
        CHANGED,
        remembered(CHANGED),
        1,
        OLD,
    ),
    "a layout of a newer operator is unknown": (SD, remembered(template_version="3"), 2, NEW),
    "a layout that is no number is unknown": (SD, remembered(template_version="one"), 2, NEW),
    "a layout in other digits is unknown": (SD, remembered(template_version="²"), 2, NEW),
    "a version that was changed by hand gives another digest": (
        SD,
        remembered(template_version="2"),
        2,
        NEW,
    ),
    "a digest that was changed by hand": (SD, remembered(template_digest="0"), 2, NEW),
    "an image that was changed by hand": (SD, remembered(default_image="evil"), 2, NEW),
    "a digest that was taken away": (SD, without(names.TEMPLATE_DIGEST), 2, NEW),
    "a version that was taken away": (SD, without(names.TEMPLATE_VERSION), 2, NEW),
    "an image that was taken away": (SD, without(names.DEFAULT_IMAGE), 2, NEW),
}


@pytest.mark.parametrize(
    ("sd", "annotations", "version", "image"), CHOICES.values(), ids=CHOICES.keys()
)
def test_the_template_is_chosen(
    sd: SamplerDeployment, annotations: Mapping[str, str], version: int, image: str
) -> None:
    chosen = chosen_template(sd, annotations, NEW, BOTH)
    expected = Template(BOTH[version](sd, image), version, image)
    assert chosen == expected
    assert chosen_template(sd, chosen.annotations(), "acme/torch:3", BOTH) == expected


def test_an_image_of_ones_own_is_no_default() -> None:
    own = parse(manifest(changed(MINIMAL, {"image": "mine:1"})))
    kept = chosen_template(own, remembered(own), NEW, BOTH)
    assert (kept.manifest["image"], kept.version) == ("mine:1", 1)


def test_a_layout_can_be_given_up_two_releases_later() -> None:
    chosen = chosen_template(SD, remembered(), NEW, {2: second_layout})
    assert (chosen.version, chosen.default_image) == (2, NEW)


def test_every_spec_with_every_field_can_be_built() -> None:
    template = built(EVERYTHING)
    assert template["spec"]["containers"][0]["image"] == EVERYTHING["image"]


# One claim in two modes: a kubelet mounts it once for a pod, whichever it comes to first.

LORA = {
    "name": "shared",
    "mountPath": "/adapters",
    "persistentVolumeClaim": {"claimName": "shared"},
}
WRITABLE_CACHE = {
    "model": {
        "uri": "hf://a/b",
        "cache": {"volume": {"persistentVolumeClaim": {"claimName": "shared"}}},
    },
    "engine": {"torch": {}},
}
OWN = {
    "podTemplateOverrides": {
        "spec": {
            "volumes": [{"name": "own", "persistentVolumeClaim": {"claimName": "shared"}}],
            "containers": [
                {"name": "server", "volumeMounts": [{"name": "own", "mountPath": "/own"}]}
            ],
        }
    }
}


@pytest.mark.parametrize(
    ("spec", "read_only"),
    [
        pytest.param({}, True, id="a claim that is only read is read-only as a volume too"),
        pytest.param(WRITABLE_CACHE, None, id="the cache writes to the claim of the adapters"),
        pytest.param(OWN, None, id="a volume of the overrides writes to it"),
    ],
)
def test_a_claim_that_something_writes_to_is_read_only_by_its_mounts_alone(
    spec: Mapping[str, Any], read_only: bool | None
) -> None:
    pod = built({**MINIMAL, **spec, "lora": {"volumes": [LORA]}})["spec"]
    [volume] = [each for each in pod["volumes"] if each["name"] == "lora-shared"]
    [mount] = [
        each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "lora-shared"
    ]
    assert volume["persistentVolumeClaim"].get("readOnly") is read_only
    assert mount["readOnly"]
