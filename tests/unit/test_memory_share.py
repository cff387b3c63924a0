"""What each of several vLLM engines on one GPU may take of its memory."""

import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

import sampler_server.supervisor
from sampler_cli.main import app
from sampler_cli.memory_share import memory_share
from sampler_server.supervisor import EnginePorts

CASES = [
    pytest.param(["--gpu-memory-utilization", "0.9"], 2, "0.45", id="two halves"),
    pytest.param(["--gpu-memory-utilization=0.8", "--enforce-eager"], 4, "0.2", id="in one word"),
    pytest.param(["--gpu_memory_utilization=0.5"], 2, "0.25", id="vLLM's other spelling"),
    pytest.param(
        ["--gpu-memory-utilization", "0.9", "--gpu-memory-utilization=0.6"],
        3,
        "0.2",
        id="the last one counts",
    ),
    pytest.param(["--quantization", "fp8"], 3, "0.3", id="without it, a part of 0.9"),
    pytest.param([], 7, "0.1285", id="together never more than all"),
]


@pytest.mark.parametrize(("words", "engines", "share"), CASES)
def test_engines_share_what_is_asked_for(words: list[str], engines: int, share: str) -> None:
    assert memory_share(words, engines) == ["--gpu-memory-utilization", share]
    assert float(share) * engines <= 0.9


@pytest.mark.parametrize(
    "words", [["--gpu-memory-utilization", "half"], ["--gpu-memory-utilization"]]
)
def test_what_is_no_number_is_left_to_vllm(words: list[str]) -> None:
    assert memory_share(words, 2) == []


@pytest.mark.parametrize(
    ("engine", "words", "is_one_by_one"),
    [("vllm", ["--gpu-memory-utilization", "0.4"], True), ("sim", [], False)],
)
def test_serve_gives_each_vllm_engine_its_share_after_what_was_asked_for(
    engine: str, words: list[str], is_one_by_one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def supervise(
        engines: Sequence[EnginePorts],
        command: Callable[[EnginePorts], list[str]],
        *_: Any,
        **more: Any,
    ) -> int:
        seen.extend(command(ports) for ports in engines)
        assert more["is_one_by_one"] == is_one_by_one
        return 0

    given = ["serve", f"--engine={engine}", "--engines=2", "--model=m"]
    given += ["--gpu-memory-utilization=0.8"] if words else []
    monkeypatch.setattr(sampler_server.supervisor, "supervise", supervise)
    monkeypatch.setattr(sys, "argv", ["sampler", *given])
    with pytest.raises(SystemExit):
        app()
    for command in seen:
        after = command[command.index("--engines") :]
        assert [w for w in pairwise(after) if "memory" in w[0]] == ([tuple(words)] if words else [])
    assert len(seen) == 2
