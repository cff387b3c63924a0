"""The command line of a pod's server: what the operator writes, ``sampler serve`` understands."""

from pathlib import Path
from typing import Any

import pytest
import typer
from tests.golden_templates import GOLDEN, Golden
from tests.spec_cases import MINIMAL, changed, manifest

from sampler_cli.main import app
from sampler_cli.serve import EngineName
from sampler_operator.pod.arguments import fetch_arguments, model_path, serve_arguments
from sampler_operator.spec import SamplerDeployment
from sampler_operator.spec.parse import parse

SIM = {"model": {"uri": "sim://demo"}, "engine": {"sim": {}}}
SERVED = [
    golden
    for golden in GOLDEN
    if golden.sd.spec.engine.kind in {engine.value for engine in EngineName}
]


def sd(spec: dict[str, Any], change: dict[str, Any] | None = None) -> SamplerDeployment:
    return parse(manifest(changed(spec, change or {})))


def command(name: str) -> Any:
    return typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]


@pytest.mark.parametrize("golden", SERVED, ids=str)
def test_the_server_understands_its_command_line(golden: Golden) -> None:
    words = golden.template["spec"]["containers"][0]["args"]
    assert words[0] == "serve"
    context = command("serve").make_context("serve", words[1:])
    spec = golden.sd.spec
    assert context.params["engine"].value == spec.engine.kind
    # Words that are not the server's own are vLLM's.
    assert spec.engine.kind == "vllm" or not context.args
    assert context.params["drain_seconds"] == spec.rollout.drain_seconds
    assert context.params["stall_seconds"] == spec.engine.stall_seconds
    assert (context.params["port"], context.params["manage_port"]) == (8000, 9000)


@pytest.mark.parametrize(
    "golden", [g for g in GOLDEN if "initContainers" in g.template["spec"]], ids=str
)
def test_the_download_understands_its_command_line(golden: Golden) -> None:
    [container] = golden.template["spec"]["initContainers"]
    assert container["args"][0] == "fetch"
    read = command("fetch").make_context("fetch", container["args"][1:]).params
    writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
    assert read["model"] == golden.sd.spec.model.uri
    assert read["link"] == Path(model_path(golden.sd))
    assert {str(read["cache"]), str(read["link"].parent)} <= writable


SETTINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "every setting of sim": (
        "sim",
        {
            "maxModelLen": 64,
            "maxNumSeqs": 4,
            "maxKvTokens": 4096,
            "prefillRate": 1234567.5,
            "decodeRate": 50,
            "perSequenceSeconds": 0.000001,
            "jitter": 0.5,
            "slowFactor": 0.25,
            "eosRate": 0.1,
        },
        {
            "max_model_len": 64,
            "max_num_seqs": 4,
            "max_kv_tokens": 4096,
            "sim_prefill_rate": 1234567.5,
            "sim_decode_rate": 50.0,
            "sim_per_sequence": 0.000001,
            "sim_jitter": 0.5,
            "sim_slow": 0.25,
            "sim_eos_rate": 0.1,
        },
    ),
    "every setting of torch": (
        "torch",
        {
            "maxModelLen": 64,
            "maxNumSeqs": 4,
            "maxKvTokens": 4096,
            "dtype": "float32",
            "threads": 3,
            "batchInvariant": True,
        },
        {
            "max_model_len": 64,
            "max_num_seqs": 4,
            "max_kv_tokens": 4096,
            "dtype": "float32",
            "threads": 3,
            "batch_invariant": True,
        },
    ),
}


@pytest.mark.parametrize(("engine", "given", "read"), SETTINGS.values(), ids=SETTINGS.keys())
def test_settings_arrive_as_they_were_given(
    engine: str, given: dict[str, Any], read: dict[str, Any]
) -> None:
    uri = {"sim": "sim://demo", "torch": "file:///models/a"}[engine]
    made = sd({"model": {"uri": uri}, "engine": {engine: given}})
    context = command("serve").make_context("serve", serve_arguments(made)[1:])
    assert {name: context.params[name] for name in read} == read


@pytest.mark.parametrize(("gpus", "device"), [({}, "cuda"), ({"count": 0}, "cpu")])
def test_a_model_on_several_ranks_of_torch(gpus: dict[str, Any], device: str) -> None:
    words = serve_arguments(sd(MINIMAL, {"tensorParallelSize": 2, "gpu": gpus}))
    read = command("serve").make_context("serve", words[1:]).params
    assert (read["tensor_parallel_size"], read["device"]) == (2, device)


@pytest.mark.parametrize(
    ("seconds", "word"),
    [(10, "10"), (10.0, "10"), (0.1, "0.1"), (5.25, "5.25"), (1234567.25, "1234567.25")],
)
def test_numbers_keep_all_their_digits(seconds: float, word: str) -> None:
    words = serve_arguments(sd(SIM, {"engine": {"orphanSeconds": seconds}}))
    assert words[words.index("--orphan-seconds") + 1] == word


PATHS = {
    "a model of the hub is where the download links it": ("hf://owner/model", "/models/link/model"),
    "a directory of a claim": ("pvc://claim/a/b", "/models/model/a/b"),
    "the root of a claim": ("pvc://claim", "/models/model"),
    "the root of a claim, with a slash": ("pvc://claim/", "/models/model"),
    "a directory of the image": ("file:///opt/model", "/opt/model"),
}


@pytest.mark.parametrize(("uri", "path"), PATHS.values(), ids=PATHS.keys())
def test_the_model_is_read_from(uri: str, path: str) -> None:
    assert model_path(sd(MINIMAL, {"model": {"uri": uri}})) == path


def test_a_sim_server_of_a_hub_model_reads_no_files() -> None:
    assert model_path(sd(SIM, {"model": {"uri": "hf://owner/model"}})) == "owner/model"


def test_the_users_own_words_come_last() -> None:
    words = serve_arguments(sd(MINIMAL, {"engine": {"torch": {"extraArgs": ["--threads", "2"]}}}))
    assert words[-2:] == ["--threads", "2"]


def test_the_download_is_told_the_revision_only_if_there_is_one() -> None:
    link = ["--cache", "/models/cache", "--link", "/models/link/model"]
    assert fetch_arguments(sd(MINIMAL)) == ["fetch", "hf://owner/model", *link]
    assert fetch_arguments(sd(MINIMAL, {"model": {"revision": "v1"}})) == [
        *("fetch", "hf://owner/model", "--revision", "v1"),
        *link,
    ]
