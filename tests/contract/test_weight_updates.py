"""Base weights that change under a torch engine: what it computes then, and what happens when a
change fails halfway."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny_adapters import tiny_adapter
from tests.tiny_models import tiny_model
from tests.torch_harness import TorchHarness, ask, prompt_of
from tests.updatable import checked

from sampler_api.errors import (
    EngineDead,
    EngineFailed,
    WeightsInvalid,
)
from sampler_core.bases import base_digest
from sampler_core.checked_weights import CheckedWeights, base_layout, check_weights
from sampler_server import TorchSampler
from sampler_server.engines.base import EngineRequest
from sampler_server.engines.torch import packing
from sampler_server.engines.torch import weights as torch_weights


def greedy(seed: int = 0, **params: Any) -> EngineRequest:
    return ask(prompt_of(40, seed), **{"temperature": 0.0, "max_tokens": 24, **params})


def assert_same(found: TorchHarness, expected: TorchHarness, **how: Any) -> None:
    """Greedy tokens and their logprobs, several prompts in one batch."""
    ours = found.run(*(greedy(seed, **how) for seed in range(4)))
    theirs = expected.run(*(greedy(seed, **how) for seed in range(4)))
    for one, other in zip(ours, theirs, strict=True):
        assert one.tokens == other.tokens
        assert np.abs(one.logprobs - other.logprobs).max() <= 1e-4


@pytest.fixture(scope="module")
def fresh() -> Iterator[dict[int, TorchHarness]]:
    """Engines that were started on each step."""
    engines = {step: TorchHarness(tiny_model(step=step), dtype="float32") for step in range(2)}
    yield engines
    for engine in engines.values():
        engine.engine.close()


@pytest.fixture(params=["packed", "plain"])
def engine(request: pytest.FixtureRequest) -> Iterator[TorchHarness]:
    engine = TorchHarness(dtype="float32", pack_weights=request.param == "packed")
    yield engine
    engine.engine.close()


def test_an_engine_is_that_of_the_new_weights(
    engine: TorchHarness, fresh: dict[int, TorchHarness]
) -> None:
    for step in (1, 0, 1):
        engine.engine.update_weights(checked(step))
        assert engine.engine.info.base_digest == base_digest(tiny_model(step=step))
        assert_same(engine, fresh[step])


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_other_architectures_too(architecture: Any) -> None:
    old, new = tiny_model(architecture), tiny_model(architecture, step=1)
    ours = TorchHarness(old, dtype="float32")
    theirs = TorchHarness(new, dtype="float32")
    ours.engine.update_weights(check_weights(new, base_layout(old)))
    assert_same(ours, theirs)
    ours.engine.close()
    theirs.engine.close()


def test_half_precision_stays_what_it_is() -> None:
    ours = TorchHarness(dtype="bfloat16")
    theirs = TorchHarness(tiny_model(step=1), dtype="bfloat16")
    ours.engine.update_weights(checked())
    for one, other in zip(ours.run(greedy()), theirs.run(greedy()), strict=True):
        assert one.tokens == other.tokens
        assert np.array_equal(one.logprobs, other.logprobs)
    ours.engine.close()
    theirs.engine.close()


def test_weights_that_wait_in_memory_are_copied_over_the_old_ones(
    engine: TorchHarness, fresh: dict[int, TorchHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_weights, "_put", as_on_a_full_device)
    before = [p.data_ptr() for p in engine.engine.model.parameters()]
    engine.engine.update_weights(checked())
    assert [p.data_ptr() for p in engine.engine.model.parameters()] == before
    assert_same(engine, fresh[1])


class _Elsewhere(torch.Tensor):
    """Says that it is on another device."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("meta")


_put = torch_weights._put


def as_on_a_full_device(place: torch.Tensor, tensor: torch.Tensor, undo: Any) -> None:
    _put(place, tensor.as_subclass(_Elsewhere), undo)


@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["exchanged", "copied over"])
def test_a_failure_halfway_puts_the_old_weights_back(
    engine: TorchHarness,
    fresh: dict[int, TorchHarness],
    monkeypatch: pytest.MonkeyPatch,
    is_elsewhere: bool,
) -> None:
    count = 0

    def failing(place: torch.Tensor, tensor: torch.Tensor, undo: Any) -> None:
        nonlocal count
        count += 1
        if count == 9:
            raise RuntimeError("the device has no more")
        (as_on_a_full_device if is_elsewhere else _put)(place, tensor, undo)

    monkeypatch.setattr(torch_weights, "_put", failing)
    with pytest.raises(EngineFailed, match="the device has no more"):
        engine.engine.update_weights(checked())
    monkeypatch.undo()
    assert count == 9 + 8
    assert engine.engine.info.base_digest == ""
    assert_same(engine, fresh[0])
    engine.engine.update_weights(checked())
    assert_same(engine, fresh[1])


@pytest.mark.parametrize("lasts", [False, True], ids=["once", "for good"])
def test_a_device_that_does_not_hold_what_was_copied_serves_no_mixture(
    fresh: dict[int, TorchHarness], monkeypatch: pytest.MonkeyPatch, lasts: bool
) -> None:
    """The tensor that was being copied is put back too; where that fails nobody is served."""
    engine = TorchHarness(dtype="float32")
    equal, count = torch.equal, 0

    def holds(one: torch.Tensor, other: torch.Tensor) -> bool:
        nonlocal count
        count += 1
        return equal(one, other) and not (count == 9 or (lasts and count > 9))

    monkeypatch.setattr(torch_weights, "_put", as_on_a_full_device)
    monkeypatch.setattr(torch, "equal", holds)
    with pytest.raises(EngineDead if lasts else EngineFailed, match="does not hold what"):
        engine.engine.update_weights(checked())
    monkeypatch.undo()
    assert engine.engine.info.base_digest == ""
    if lasts:
        engine.wait(lambda: 0 in engine.found)
        assert isinstance(engine.found[0].error, EngineDead)
        with pytest.raises(EngineDead, match="does not hold what"):
            engine.engine.submit([greedy()])
    else:
        assert_same(engine, fresh[0])
    engine.engine.close()


def test_weights_that_cannot_be_packed_are_right_without(
    fresh: dict[int, TorchHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TorchHarness(dtype="float32")

    def full(model: object) -> int:
        raise MemoryError

    monkeypatch.setattr(packing, "pack_linears", full)
    engine.engine.update_weights(checked())
    assert_same(engine, fresh[1])
    engine.engine.close()


@pytest.mark.parametrize("error", [RuntimeError("no memory"), OSError(5, "Input/output error")])
def test_a_failure_while_loading_touches_nothing(
    engine: TorchHarness,
    fresh: dict[int, TorchHarness],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(torch_weights, "_copies", broken)
    with pytest.raises(EngineFailed, match="cannot be loaded"):
        engine.engine.update_weights(checked())
    assert_same(engine, fresh[0])


def test_files_that_change_while_they_are_read_are_refused(
    engine: TorchHarness, fresh: dict[int, TorchHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = checked()
    stale = CheckedWeights(weights.directory, weights.digest, weights.stamps[:-1])
    with pytest.raises(WeightsInvalid, match="was changed while it was read"):
        engine.engine.update_weights(stale)
    assert_same(engine, fresh[0])


def test_a_directory_that_loses_a_file_after_the_check_is_refused(
    engine: TorchHarness, fresh: dict[int, TorchHarness], tmp_path: Path
) -> None:
    copy = tmp_path / "weights"
    shutil.copytree(tiny_model(step=1), copy)
    weights = check_weights(copy, base_layout(tiny_model()))
    (copy / "config.json").unlink()
    with pytest.raises(WeightsInvalid, match=r"config\.json: missing"):
        engine.engine.update_weights(weights)
    assert_same(engine, fresh[0])


def test_an_engine_with_sequences_refuses(engine: TorchHarness) -> None:
    running = greedy(max_tokens=1500, ignore_eos=True)
    engine.engine.submit([running])
    engine.wait(lambda: engine.has_started(running))
    with pytest.raises(EngineFailed, match="1 sequences run on the old weights"):
        engine.engine.update_weights(checked())
    engine.engine.cancel([running.key])
    engine.engine.update_weights(checked())


def test_a_closed_engine_says_so(engine: TorchHarness) -> None:
    engine.engine.close()
    with pytest.raises(EngineDead):
        engine.engine.update_weights(checked())


def test_a_model_that_was_handed_in_is_compared_by_what_it_is() -> None:
    from transformers import AutoModelForCausalLM

    def model() -> Any:
        return AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32)

    with TorchSampler(model(), device="cpu") as sampler:
        for wrong in ("llama", "qwen2"):
            with pytest.raises(WeightsInvalid):
                sampler.update_weights(tiny_model(wrong))
        revision = sampler.update_weights(f"file://{tiny_model(step=1)}")
        assert revision.base == base_digest(tiny_model(step=1))
        (found,) = sampler.sample({"input_ids": prompt_of(9)}, {"temperature": 0, "max_tokens": 9})
        assert found.sequences[0].revision == revision
    with TorchSampler(str(tiny_model(step=1)), device="cpu") as other:
        (same,) = other.sample({"input_ids": prompt_of(9)}, {"temperature": 0, "max_tokens": 9})
    assert found.sequences[0].tokens == same.sequences[0].tokens


def test_a_stream_goes_on_over_a_change(tmp_path: Path) -> None:
    inputs = [{"input_ids": prompt_of(8, seed)} for seed in range(40)]
    params = {"temperature": 0, "max_tokens": 40, "ignore_eos": True}
    with TorchSampler(str(tiny_model()), device="cpu", slots=4) as sampler:
        sampler.add_adapter_to_model("a", tiny_adapter("a1"))
        found: set[int] = set()
        bases = [sampler._backend.card().base]
        for index, response in sampler.sample_stream(inputs, params, max_pending=8):
            if len(found) in (8, 16):
                step = 1 if len(found) == 8 else 0
                new = sampler.update_weights(tiny_model(step=step), in_flight="continue")
                bases.append(new.base)
            found.add(index)
            (sequence,) = response.sequences
            assert (sequence.error, len(sequence.tokens)) == (None, 40)
            ends = [segment.end for segment in sequence.segments]
            assert ends[-1] == 40
            named = [s.revision.base for s in sequence.segments if s.revision is not None]
            places = [bases.index(base) for base in named]
            assert sequence.revision is not None
            assert sequence.revision.base == named[-1]
            assert len(places) <= 3
    assert found == set(range(40))
