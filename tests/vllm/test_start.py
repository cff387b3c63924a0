"""How a vLLM engine starts, and what it says when it cannot: one line that names what to change."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.tiny_models import tiny_model
from tests.vllm_harness import VllmHarness

from sampler_api.errors import InvalidRequest, ModelInvalid, SamplerError, Unsupported
from sampler_server.engines.vllm import VllmOptions, engine, versions
from sampler_server.engines.vllm.arguments import engine_args, lora_targets

TARGETS = ["q_proj"]


def options(**changes: Any) -> VllmOptions:
    return VllmOptions(tiny_model(), **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param(
            {"engine_args": {"gpu_memory_utilisation": 0.5}},
            ("no argument 'gpu_memory_utilisation'", "did you mean 'gpu_memory_utilization'"),
            id="a name that vLLM does not have",
        ),
        pytest.param(
            {"words": ("--block-sise", "16")},
            ("no argument 'block_sise'", "did you mean 'block_size'"),
            id="an option that vLLM does not have",
        ),
        pytest.param(
            {"words": ("--block-size", "many")}, ("block-size",), id="a word that is no number"
        ),
        pytest.param({"words": ("stray",)}, ("stray",), id="a stray word"),
        pytest.param(
            {"engine_args": {"model": "other"}}, ("model is not yours",), id="the model twice"
        ),
        pytest.param(
            {"words": ("--speculative-config", "{}")},
            ("speculative_config is not yours", "drafts"),
            id="what this engine does not serve",
        ),
        pytest.param(
            {"words": ("--enable-chunked-prefill",)},
            ("enable_chunked_prefill", "seeded"),
            id="what vLLM dies of",
        ),
        pytest.param({"max_lora_rank": 513}, ("at most 512",), id="a rank above vLLM's largest"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        engine_args(options(**changes), TARGETS, is_cpu=True)
    assert "\n" not in caught.value.message
    for word in words:
        assert word in caught.value.message


def test_words_of_a_command_line_mean_what_they_mean_to_vllm() -> None:
    words = ["--block-size", "16", "--no-enforce-eager", "--max-num-seqs=99"]
    args = engine_args(options(words=[*words, "-tp", "2"]), TARGETS, is_cpu=True)
    assert (args.block_size, args.max_num_seqs) == (16, 99)
    assert args.tensor_parallel_size == 2
    assert args.enforce_eager is False
    assert args.kv_cache_memory_bytes


def test_fresh_engines_draw_differently_unless_they_are_told() -> None:
    seeds = {engine_args(options(), TARGETS, is_cpu=True).seed for _ in range(3)}
    assert len(seeds) == 3
    assert engine_args(options(engine_args={"seed": 5}), TARGETS, is_cpu=True).seed == 5


@pytest.mark.parametrize(
    ("is_cpu", "given", "slots", "kept"),
    [
        pytest.param(True, {}, 9, 17, id="one more on a CPU, for the zero adapter"),
        pytest.param(False, {}, 8, 17, id="none more elsewhere"),
        pytest.param(True, {"max_loras": 2}, 3, 17, id="as many a step as are asked for"),
    ],
)
def test_slots_of_adapters(is_cpu: bool, given: dict[str, int], slots: int, kept: int) -> None:
    args = engine_args(options(engine_args=given), TARGETS, is_cpu)
    assert (args.max_loras, args.max_cpu_loras) == (slots, kept)
    assert args.lora_target_modules == TARGETS


def test_adapters_leave_the_output_layer_alone() -> None:
    modules = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj", "lm_head"]
    assert lora_targets(modules) == ["q_proj", "up_proj"]


def test_a_version_that_is_not_known_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "installed_version", lambda: "0.99.0")
    with pytest.raises(Unsupported, match=r"vllm 0\.99\.0 is installed"):
        VllmHarness().__enter__()


def test_the_installed_version_is_found_under_either_name() -> None:
    versions.check_version(versions.installed_version())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        pytest.param(
            {"engine_args": {"max_model_len": 1 << 20}}, "max_model_len", id="a context too long"
        ),
        pytest.param(
            {"engine_args": {"gpu_memory_utilization": 7.0}},
            "gpu_memory_utilization",
            id="a value out of range",
        ),
    ],
)
def test_values_that_vllm_refuses_are_one_line(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(SamplerError, match=named) as caught:
        VllmHarness(**changes).__enter__()
    assert "\n" not in caught.value.message


def test_a_model_that_does_not_load_is_one_line_with_the_cause(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model(), model)
    config = json.loads((model / "config.json").read_text())
    # vLLM finds this in its worker process, two processes away.
    config["intermediate_size"] += 8
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelInvalid) as caught:
        VllmHarness(model).__enter__()
    assert "\n" not in caught.value.message
    assert str(model) in caught.value.message
    assert "initialization failed" not in caught.value.message


def test_a_server_that_cannot_start_says_so_where_kubernetes_looks(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    command = [sys.executable, "-m", "sampler_cli.main", "serve", "--engine", "vllm"]
    command += [f"--model={tiny_model()}", "--port=0", "--manage-port=0", "--max-num-seqz=4"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
        env={**os.environ, "SAMPLER_TERMINATION_LOG": str(log)},
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert log.read_text().count("\n") == 1
    assert "did you mean 'max_num_seqs'" in log.read_text()
