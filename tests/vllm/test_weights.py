"""vLLM's workers with other base weights: exact, with nothing of the old ones, or not at all."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from tests.reference import Reference, log_softmax
from tests.tiny_adapters import tiny_adapter
from tests.tiny_models import tiny_model
from tests.torch_harness import ask, prompt_of
from tests.updatable import checked
from tests.vllm_harness import IS_CPU, TOLERANCE, VllmHarness

from sampler_api.errors import EngineDead, Unsupported
from sampler_core.adapters import snapshot_adapter
from sampler_core.bases import base_digest
from sampler_core.checked_weights import CheckedWeights
from sampler_server.engines.base import EngineRequest

SHARED = prompt_of(400, 9)
"""Longer than a block of the prefix cache, of 128 tokens on a CPU."""


KINDS = ("a1", "a2")
"""Of adapters."""


@cache
def digest(kind: str) -> str:
    return snapshot_adapter(tiny_adapter(kind)).digest


def requests(adapters: list[str]) -> list[EngineRequest]:
    """The base and adapters side by side, on one long prompt and on short ones."""
    return [
        ask(prompt, temperature=0.0, max_tokens=16, adapter=adapter, ignore_eos=True)
        for adapter in (None, *adapters)
        for prompt in (SHARED, prompt_of(20, 1))
    ]


def hold(engine: VllmHarness, kinds: tuple[str, ...]) -> list[str]:
    held = []
    for kind in kinds:
        engine.engine.load_adapter(digest(kind), tiny_adapter(kind))
        held.append(digest(kind))
    return held


@cache
def plain(step: int) -> Reference:
    return Reference(tiny_model(step=step), {digest(kind): tiny_adapter(kind) for kind in KINDS})


def assert_of(step: int, engine: VllmHarness, asked: list[EngineRequest]) -> None:
    """What comes is what plain forward passes of a step's weights give."""
    for request, found in zip(asked, engine.run(*asked), strict=True):
        ids = [*request.prompt_ids.tolist(), *found.tokens]
        logits = plain(step).logits(ids, request.adapter)[-len(found.tokens) - 1 : -1]
        rows = np.array([log_softmax(row) for row in logits])
        expected = rows[np.arange(len(rows)), found.tokens]
        assert len(found.tokens) == 16
        assert np.abs(expected - found.logprobs).max() <= TOLERANCE
        assert (rows.max(1) - expected).max() <= TOLERANCE


@pytest.fixture
def doomed() -> Iterator[VllmHarness]:
    """An engine that the test ends."""
    with _started() as engine:
        yield engine


@pytest.fixture(scope="module")
def shared() -> Iterator[VllmHarness]:
    with _started() as engine:
        yield engine


@pytest.fixture
def engine(shared: VllmHarness) -> Iterator[VllmHarness]:
    """On the first step, with no adapters; left alive."""
    flow = shared.engine._flow
    assert flow is not None
    shared.engine.update_weights(checked(0))
    yield shared
    vars(flow._engine).pop("collective_rpc", None)
    for kind in KINDS:
        if flow.adapters.find(digest(kind)) is not None:
            shared.engine.unload_adapter(digest(kind))


def _started() -> VllmHarness:
    return VllmHarness(base_digest=base_digest(tiny_model()), max_adapters=2)


def test_an_engine_is_that_of_the_new_weights_adapters_too(engine: VllmHarness) -> None:
    adapters = hold(engine, KINDS)
    assert_of(0, engine, requests(adapters))
    for step in (1, 0, 1):
        engine.engine.update_weights(checked(step))
        assert engine.engine.info.base_digest == base_digest(tiny_model(step=step))
        # The same prompt again: what the prefix cache had of it was of other weights.
        assert_of(step, engine, requests(adapters))
    # Loaded and unloaded as before.
    engine.engine.unload_adapter(adapters[0])
    (again,) = hold(engine, ("a1",))
    assert_of(1, engine, requests([again, adapters[1]]))


def test_what_was_cancelled_is_gone_when_the_weights_change(engine: VllmHarness) -> None:
    running = [ask(prompt_of(30, n), max_tokens=900, ignore_eos=True) for n in range(4)]
    engine.engine.submit(running)
    engine.wait(lambda: all(map(engine.has_started, running)))
    engine.engine.cancel([request.key for request in running])
    engine.engine.update_weights(checked(1))
    assert all(engine.found[request.key].finish == "abort" for request in running)


@pytest.mark.skipif(not IS_CPU, reason="a GPU's version has no other way")
def test_loaders_of_older_versions_find_layers_that_have_adapters(engine: VllmHarness) -> None:
    adapters = hold(engine, KINDS)

    async def unwrapping(call: Any, method: str, args: tuple[Any, ...]) -> Any:
        return await call(method, args=(*args, True) if method == "sampler_reload" else args)

    instead(engine, unwrapping)
    engine.engine.update_weights(checked(1))
    assert_of(1, engine, requests(adapters))


def instead(engine: VllmHarness, answer: Any) -> None:
    """Have ``answer(call, method, args)`` answer what vLLM's workers are asked."""
    flow = engine.engine._flow
    assert flow is not None
    call = flow._engine.collective_rpc

    async def asked(method: str, args: tuple[Any, ...] = ()) -> Any:
        return await answer(call, method, args)

    flow._engine.collective_rpc = asked


def unread(engine: VllmHarness, *skipped: str) -> None:
    """Have vLLM's workers overlook some calls."""

    async def overlooked(call: Any, method: str, args: tuple[Any, ...]) -> Any:
        return [0] if method in skipped else await call(method, args=args)

    instead(engine, overlooked)


def assert_dead(engine: VllmHarness, weights: CheckedWeights, told: str) -> None:
    running = ask(prompt_of(9))
    with pytest.raises(EngineDead, match=told):
        engine.engine.update_weights(weights)
    with pytest.raises(EngineDead, match=told):
        engine.engine.submit([running])
    engine.wait(lambda: any(isinstance(c.error, EngineDead) for c in engine.found.values()))


def test_workers_that_did_not_read_the_weights_end_the_engine(doomed: VllmHarness) -> None:
    unread(doomed, "sampler_reload")
    assert_dead(doomed, checked(1), "tensors were not read")


def test_files_that_change_while_they_are_read_end_the_engine(doomed: VllmHarness) -> None:
    good = checked(1)
    assert_dead(
        doomed, CheckedWeights(good.directory, good.digest, good.stamps[:-1]), "was changed"
    )


def test_a_loader_that_fails_halfway_ends_the_engine(doomed: VllmHarness, tmp_path: Any) -> None:
    # Nothing is checked here: as if a disk failed behind the check.
    assert_dead(doomed, CheckedWeights(_halved(tmp_path), "sha256:x", ()), "neither the old")


def _halved(tmp_path: Any) -> Any:
    import shutil

    from safetensors.torch import load_file, save_file

    directory = tmp_path / "halved"
    shutil.copytree(tiny_model(step=1), directory)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.down_proj.weight"] = tensors["lm_head.weight"][:7].clone()
    save_file(tensors, path, {"format": "pt"})
    return directory


def test_weights_that_nobody_could_tell_apart_are_refused_untouched(engine: VllmHarness) -> None:
    unread(engine, "sampler_comparable")
    with pytest.raises(Unsupported, match="under its own name"):
        engine.engine.update_weights(checked(1))
    assert_of(0, engine, requests([]))
