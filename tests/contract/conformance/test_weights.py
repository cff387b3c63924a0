"""Rules S10.19 to S10.25 of docs/semantics.md: base weights that change under a sampler.

What a fresh engine would give is what a plain forward pass of the new model gives: tokens of every
segment are compared with those of the base that the segment names, over the whole prefix, so that a
key or value of another base would show.
"""

import shutil
import threading
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.checks import PROMPTS, assert_best, assert_explained
from tests.proxy import wait_until
from tests.reference import TOLERANCE, Reference, log_softmax
from tests.samplers import has_gpu
from tests.tiny_adapters import tiny_adapter
from tests.tiny_models import tiny_model
from tests.updatable import Updatable, digest_of, updatable

from sampler_api.errors import InvalidRequest, RevisionGone, SamplerError, WeightsInvalid
from sampler_api.params import SamplingParams
from sampler_api.results import SampledSequence

GREEDY = SamplingParams(temperature=0, max_tokens=16, logprobs=1)
# The second for what must still run when the weights change, however fast its engine is.
LONG = SamplingParams(temperature=0, max_tokens=300, logprobs=1, ignore_eos=True)
LONGER_TOKENS = 1900 if has_gpu() else 700
LONGER = SamplingParams(temperature=0, max_tokens=LONGER_TOKENS, logprobs=1, ignore_eos=True)
WHOLE = {LONG.max_tokens, LONGER.max_tokens}
"""Lengths of what ``begun`` has begun."""


@cache
def reference(step: int) -> Reference:
    return Reference(tiny_model(step=step), {"a1": tiny_adapter("a1")})


@cache
def step_of(base: str) -> int:
    return next(step for step in range(3) if digest_of(step) == base)


IDS = [reference(0).encode(text) for text in PROMPTS]


@pytest.fixture(scope="module")
def world(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Updatable]:
    """One sampler for all tests of this file; each begins by setting its base."""
    with updatable(kind, tmp_path_factory.getbasetemp()) as world:
        yield world


@pytest.fixture
def at_first(world: Updatable) -> Updatable:
    """On the first step."""
    world.update(0)
    return world


def assert_of_its_base(
    prompt: list[int], sequence: SampledSequence, adapter: str | None = None
) -> None:
    """Every token is the best one under the base of its segment, with its logprob there."""
    assert sequence.logprobs is not None
    covered = 0
    for segment in sequence.segments:
        assert segment.start == covered
        covered = segment.end
        assert segment.revision is not None
        logits = reference(step_of(segment.revision.base)).logits(
            [*prompt, *sequence.tokens[: segment.end]], adapter
        )
        for position in range(segment.start, segment.end):
            token, row = sequence.tokens[position], log_softmax(logits[len(prompt) - 1 + position])
            assert row[token] >= row.max() - TOLERANCE
            assert abs(sequence.logprobs[position][0][1] - row[token]) <= TOLERANCE
    assert covered == len(sequence.tokens)


class Calls:
    """A call in a thread of its own; ``wait`` gives what it returned or raises what it raised."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._found: list[Any] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=[call], daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self._found.append(call())
        except BaseException as error:
            self._error = error

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> Any:
        self._thread.join(120)
        if self._error is not None:
            raise self._error
        return self._found[0]


def begun(world: Updatable, params: SamplingParams = LONG, **how: Any) -> Calls:
    """Four long sequences that an engine has begun with."""
    inputs = [{"input_ids": ids} for ids in IDS]
    # On a busy machine an engine may be through before anybody has looked.
    for tried in (params, LONGER, LONGER):
        call = Calls(partial(world.sampler.sample, inputs, tried, **how))
        if do_all_run(world, call):
            return call
    raise AssertionError("nobody saw all of them run")


def do_all_run(world: Updatable, call: Calls) -> bool:
    """Whether all were seen to run before the call was over."""
    wait_until(lambda: call.is_over or world.running == len(IDS), "all run", 120)
    return not call.is_over


@pytest.mark.rule("S10.20", "S10.19", only=("engine-torch", "engine-vllm"))
@pytest.mark.timeout(300)  # the first test starts the sampler
def test_new_weights_give_what_a_plain_forward_pass_of_them_gives(at_first: Updatable) -> None:
    sampler = at_first.sampler
    inputs = [{"input_ids": ids} for ids in IDS]
    seeded = SamplingParams(temperature=1.0, max_tokens=12, seed=5, logprobs=3, top_p=0.9)
    scored = SamplingParams(max_tokens=0, prompt_logprobs=1)
    for step in (1, 2, 0):
        base = at_first.update(step)
        assert base == digest_of(step)
        ref = reference(step)
        for ids, response in zip(IDS, sampler.sample(inputs, GREEDY), strict=True):
            (sequence,) = response.sequences
            assert_best(ref, ids, sequence.tokens, GREEDY)
            assert_of_its_base(ids, sequence)
            assert sequence.revision is not None
            assert sequence.revision.base == base
            assert [s.revision.base for s in sequence.segments if s.revision] == [base]
        for ids, response in zip(IDS, sampler.sample(inputs, seeded), strict=True):
            assert_explained(ref, ids, response.sequences[0], seeded)
        for ids, response in zip(IDS, sampler.sample(inputs, scored), strict=True):
            expected = ref.prompt_logprobs(ids)[range(len(ids) - 1), ids[1:]]
            assert response.prompt_logprobs is not None
            found = np.array(response.prompt_logprobs[1:])
            assert np.abs(found - expected).max() <= TOLERANCE


@pytest.mark.rule("S10.20", "S6.1", only=("engine-torch",))
def test_the_same_seed_draws_the_same_before_and_after(at_first: Updatable) -> None:
    seeded = SamplingParams(temperature=1.0, max_tokens=12, seed=5)
    (before,) = at_first.sampler.sample({"input_ids": IDS[0]}, seeded).sequences
    at_first.update(1)
    (other,) = at_first.sampler.sample({"input_ids": IDS[0]}, seeded).sequences
    at_first.update(0)
    (after,) = at_first.sampler.sample({"input_ids": IDS[0]}, seeded).sequences
    assert after.tokens == before.tokens != other.tokens


@pytest.mark.rule("S10.20", only=("engine-torch", "engine-vllm"))
def test_weights_that_serve_already_change_nothing(at_first: Updatable) -> None:
    call = begun(at_first)
    assert at_first.update(0, in_flight="abort") == digest_of(0)
    for response in call.wait():
        (sequence,) = response.sequences
        assert len(sequence.tokens) in WHOLE
        assert [s.ended for s in sequence.segments] == ["finished"]


@pytest.mark.rule("S10.22", "S10.19", only=("engine-torch", "engine-vllm"))
def test_what_runs_continues_under_the_new_weights_in_a_segment_of_its_own(
    at_first: Updatable,
) -> None:
    call = begun(at_first, LONGER)
    base = at_first.update(1, in_flight="continue")
    for ids, response in zip(IDS, call.wait(), strict=True):
        (sequence,) = response.sequences
        assert (sequence.stop_reason, len(sequence.tokens)) == ("length", LONGER_TOKENS)
        assert sequence.segments[-1].end == LONGER_TOKENS
        assert {s.revision.base for s in sequence.segments[:-1] if s.revision} <= {digest_of(0)}
        assert sequence.segments[-1].revision is not None
        assert sequence.segments[-1].revision.base == base
        assert sequence.revision is not None
        assert sequence.revision.base == base
        assert_of_its_base(ids, sequence)


@pytest.mark.rule("S10.22", "S10.19", only=("engine-torch", "engine-vllm"))
def test_what_runs_continues_over_several_changes(at_first: Updatable) -> None:
    call = begun(at_first, LONGER)
    for step in (1, 2):
        at_first.update(step, in_flight="continue")
        assert do_all_run(at_first, call)
    found = set()
    for ids, response in zip(IDS, call.wait(), strict=True):
        (sequence,) = response.sequences
        assert len(sequence.tokens) == LONGER_TOKENS
        assert_of_its_base(ids, sequence)
        found |= {step_of(s.revision.base) for s in sequence.segments if s.revision}
    assert 2 in found
    assert len(found) >= 2


@pytest.mark.rule("S10.22", only=("engine-torch", "engine-vllm"))
def test_what_runs_finishes_under_the_old_weights(at_first: Updatable) -> None:
    call = begun(at_first)
    base = at_first.update(1, in_flight="finish")
    for ids, response in zip(IDS, call.wait(), strict=True):
        (sequence,) = response.sequences
        assert len(sequence.tokens) in WHOLE
        assert [s.revision.base for s in sequence.segments if s.revision] == [digest_of(0)]
        assert_of_its_base(ids, sequence)
    (after,) = at_first.sampler.sample({"input_ids": IDS[0]}, GREEDY).sequences
    assert after.revision is not None
    assert after.revision.base == base


@pytest.mark.rule("S10.22", only=("engine-torch", "engine-vllm"))
def test_what_runs_is_aborted_with_what_it_has(at_first: Updatable) -> None:
    call = begun(at_first, LONGER, on_error="return")
    at_first.update(1, in_flight="abort")
    for ids, response in zip(IDS, call.wait(), strict=True):
        (sequence,) = response.sequences
        assert sequence.stop_reason == "error"
        assert isinstance(sequence.error, RevisionGone)
        assert len(sequence.tokens) < LONGER_TOKENS
        assert {s.revision.base for s in sequence.segments if s.revision} <= {digest_of(0)}
        assert_of_its_base(ids, sequence)
        # What it has can be given back, and goes on under the new weights.
        length = len(sequence.tokens) + 10
        more = SamplingParams(temperature=0, max_tokens=length, logprobs=1, ignore_eos=True)
        (again,) = at_first.sampler.sample({"input_ids": ids}, more, resume=sequence).sequences
        assert len(again.tokens) == length
        assert_of_its_base(ids, again)


@pytest.mark.rule("S10.24", "S10.19", only=("engine-torch", "engine-vllm"))
def test_adapters_stay_and_are_applied_to_the_new_base(at_first: Updatable) -> None:
    sampler = at_first.sampler
    revision = sampler.add_adapter_to_model("policy", tiny_adapter("a1"))
    inputs = [{"input_ids": ids} for ids in IDS]
    for step in (0, 1):
        base = at_first.update(step)
        for ids, response in zip(IDS, sampler.sample(inputs, GREEDY, "policy"), strict=True):
            (sequence,) = response.sequences
            assert_best(reference(step), ids, sequence.tokens, GREEDY, "a1")
            assert_of_its_base(ids, sequence, "a1")
            assert sequence.revision is not None
            assert sequence.revision == (type(sequence.revision))(base, revision.digest)
    call = begun(at_first, adapter_name="policy")
    at_first.update(0, in_flight="continue")
    for ids, response in zip(IDS, call.wait(), strict=True):
        assert_of_its_base(ids, response.sequences[0], "a1")


def damaged(tmp_path: Path, change: Callable[[Path], object]) -> Path:
    directory = tmp_path / "damaged"
    shutil.copytree(tiny_model(step=1), directory)
    change(directory)
    return directory


def cut(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def spoil(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    from safetensors.torch import load_file, save_file

    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


FAULTS: dict[str, Callable[[Path], object]] = {
    "a truncated file": cut,
    "another shape": lambda d: spoil(
        d, lambda t: t.update({"model.norm.weight": t["model.norm.weight"][:-1].clone()})
    ),
    "NaN": lambda d: spoil(d, lambda t: t["lm_head.weight"][7, 7].fill_(float("nan"))),
}
"""Others are in tests/unit/test_checked_weights.py: the check is one for all."""


@pytest.mark.rule("S10.21", "S10.23", only=("engine-torch", "engine-vllm"))
@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_directory_is_refused_and_the_old_weights_go_on(
    at_first: Updatable, fault: str, tmp_path: Path
) -> None:
    call = begun(at_first)
    with pytest.raises(WeightsInvalid) as caught:
        at_first.update(damaged(tmp_path, FAULTS[fault]), in_flight="abort")
    assert str(tmp_path / "damaged") in str(caught.value)
    assert at_first.base == digest_of(0)
    # Nobody was disturbed, and what comes is of the old weights.
    for ids, response in zip(IDS, call.wait(), strict=True):
        (sequence,) = response.sequences
        assert [s.ended for s in sequence.segments] == ["finished"]
        assert_of_its_base(ids, sequence)


@pytest.mark.rule("S10.21", only=("engine-torch", "engine-vllm"))
@pytest.mark.parametrize(
    ("how", "field"),
    [
        ({"in_flight": "never"}, "in_flight"),
        ({"finish_seconds": -1}, "finish_seconds"),
        ({"finish_seconds": 1, "in_flight": "abort"}, "finish_seconds"),
    ],
)
def test_a_wrong_argument_is_named(at_first: Updatable, how: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        at_first.update(1, **how)
    assert caught.value.field == field
    assert at_first.base == digest_of(0)


@pytest.mark.rule("S10.22", only=("engine-torch", "engine-vllm"))
def test_the_wait_for_what_runs_can_be_bounded(at_first: Updatable) -> None:
    call = begun(at_first, LONGER)
    with pytest.raises(SamplerError) as caught:
        at_first.update(1, finish_seconds=0)
    assert (caught.value.code, caught.value.field) == ("progress_timeout", "finish_seconds")
    for ids, response in zip(IDS, call.wait(), strict=True):
        (sequence,) = response.sequences
        assert len(sequence.tokens) == LONGER_TOKENS
        assert {s.revision.base for s in sequence.segments if s.revision} == {digest_of(0)}
        assert_of_its_base(ids, sequence)


@pytest.mark.rule("S10.25", "S10.22", only=("engine-torch", "engine-vllm"))
def test_a_stream_goes_on_over_changes(at_first: Updatable) -> None:
    inputs = [{"input_ids": IDS[i % 4], "number": i} for i in range(32)]
    params = SamplingParams(temperature=0, max_tokens=60, logprobs=1, ignore_eos=True)
    seen: set[int] = set()
    changes = {8: 1, 16: 2}
    stream = at_first.sampler.sample_stream(inputs, params, max_pending=12, on_error="raise")
    for index, response in stream:
        seen.add(index)
        if len(seen) in changes:
            at_first.update(changes[len(seen)], in_flight="continue")
        (sequence,) = response.sequences
        assert len(sequence.tokens) == 60
        assert_of_its_base(inputs[index]["input_ids"], sequence)  # type: ignore[arg-type]
    assert seen == set(range(32))
    # The last ones began on the newest base, which their call did not know.
    assert sequence.revision is not None
    assert sequence.revision.base == digest_of(2)
