"""Kinds of numbers in an engine's step: none that Apple's MPS does not have.

No Mac runs these tests. What can be known without one: that no tensor of a step, whatever options
are on, is of a kind that MPS refuses.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.tiny_adapters import tiny_adapter  # noqa: E402
from tests.torch_harness import TorchHarness, ask, prompt_of  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from sampler_server.engines.torch.core import TorchCore  # noqa: E402

NOT_ON_MPS = {
    *(torch.float64, torch.complex32, torch.complex64, torch.complex128),
    *(torch.uint16, torch.uint32, torch.uint64),
}


def tensors(values: Any) -> Iterator[Any]:
    """All tensors in arguments or results."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, dict):
        yield from tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors(value)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators of all steps, and notes those that take or give a wrong kind."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[str] = Counter()
        self.wrong: set[tuple[str, str]] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        self.seen[str(function)] += 1
        for tensor in tensors([args, kwargs or {}, made]):
            if tensor.dtype in NOT_ON_MPS:
                self.wrong.add((str(function), str(tensor.dtype)))
        return made


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    step = TorchCore.step

    def watched(core: TorchCore) -> Any:
        # A mode holds for its thread alone, and steps have one of their own.
        with watch:
            return step(core)

    monkeypatch.setattr(TorchCore, "step", watched)
    return watch


EVERYTHING: dict[str, Any] = {
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.8,
    "min_p": 0.02,
    "repetition_penalty": 1.2,
    "presence_penalty": 0.3,
    "frequency_penalty": 0.2,
    "logit_bias": {5: 1.0},
    "min_tokens": 2,
    "max_tokens": 6,
    "stop_token_ids": [9],
    "logprobs": 5,
    "prompt_logprobs": 3,
}


@pytest.mark.parametrize(
    "options", [{}, {"batch_invariant": True}], ids=["a moving batch", "one sequence a step"]
)
def test_no_step_has_a_kind_of_numbers_that_mps_lacks(
    watch: Watch, options: dict[str, Any]
) -> None:
    # Packed weights are the CPU's own.
    harness = TorchHarness(slots=8, pack_weights=False, prefill_tokens=16, **options)
    try:
        harness.engine.load_adapter("a1", tiny_adapter("a1"))
        modes: list[dict[str, Any]] = [{}, {"logprobs_mode": "raw"}, {"temperature": 0.0}]
        requests = [
            ask(
                prompt_of(12 + 20 * i, i),
                output=prompt_of(3, 9) if i == 2 else (),
                adapter=adapter,
                seed=None if i == 1 else i,
                bad_words=[[7, 8], [11]],
                scores=i != 2,
                **{**EVERYTHING, **mode},
            )
            for adapter in (None, "a1")
            for i, mode in enumerate(modes)
        ]
        found = harness.run(*requests)
    finally:
        harness.engine.close()
    assert all(one.finish in ("stop", "length") for one in found)
    # The steps were watched: layers, attention, adapters, edits, truncation, draws, logprobs.
    for operator in (
        *("linear", "scaled_dot_product_attention", "index_put_", "index_copy_"),
        *("topk", "cumsum", "argsort", "bitwise_xor", "log1p_", "argmax", "logsumexp"),
    ):
        assert any(f"aten.{operator}." in name for name in watch.seen), operator
    assert watch.wrong == set()


def test_a_logits_processor_with_such_numbers_would_be_seen(watch: Watch) -> None:
    def doubles(ids: Any, logits: Any) -> Any:
        return (logits.double() + 0).float()

    harness = TorchHarness(slots=2, logits_processor=doubles)
    harness.run(ask(prompt_of(4), max_tokens=2))
    harness.engine.close()
    assert ("aten.add.Tensor", "torch.float64") in watch.wrong
