"""Which inputs of a frame can run, whatever stands beside them."""

import numpy as np
import pytest
from tests.fake_engine import INFO

from sampler_api.frames import Child, Submit
from sampler_api.params import SamplingParams
from sampler_server.plans import Planner
from sampler_server.submits import Prompts

GOOD, NEGATIVE, UNKNOWN = [1, 2, 3], [1, -1], [999, 1000]
EMPTY: list[int] = []
FULL = [5] * 99
TOO_LONG = [5] * 100
FRAME_BYTES = 1024


def problems(*prompts: list[int], scores: int | None = None, child: Child) -> list[str]:
    """The fields of what is wrong with each prompt of one frame; empty texts for nothing."""
    flat = np.array([token for prompt in prompts for token in prompt], np.int32)
    columns = memoryview(flat.tobytes())
    found = Prompts([len(prompt) for prompt in prompts], columns, INFO, FRAME_BYTES)
    assert [found[i].tolist() for i in range(len(prompts))] == list(prompts)
    plan = Planner(INFO, None).of(SamplingParams(prompt_logprobs=scores))
    errors = [found.problem(Submit(i, i, 0, 0, [child]), plan) for i in range(len(prompts))]
    return ["" if error is None else error.field or "?" for error in errors]


FIRST = Child(0, 0, 0, 7, 0)


@pytest.mark.parametrize(
    ("prompts", "wrong"),
    [
        pytest.param([GOOD, FULL], ["", ""], id="good ones run"),
        pytest.param([GOOD, NEGATIVE], ["", "input_ids"], id="a negative id ends its own input"),
        pytest.param([UNKNOWN, GOOD], ["input_ids", ""], id="an id beyond the vocabulary too"),
        pytest.param([EMPTY, GOOD], ["input_ids", ""], id="an empty prompt"),
        pytest.param([GOOD, TOO_LONG], ["", "input_ids"], id="a prompt that fills the context"),
    ],
)
def test_a_bad_prompt_is_refused_alone(prompts: list[list[int]], wrong: list[str]) -> None:
    assert problems(*prompts, child=FIRST) == wrong


@pytest.mark.parametrize(
    ("child", "wrong"),
    [
        pytest.param(FIRST, "prompt_logprobs", id="that do not fit a frame are refused"),
        pytest.param(Child(0, 1, 0, 7, 0), "", id="come with the first child only"),
        pytest.param(Child(0, 0, 0, 7, 4), "", id="are not made again when it goes on"),
    ],
)
def test_prompt_logprobs(child: Child, wrong: str) -> None:
    # 99 tokens with two candidates: 1980 bytes; three tokens: 60.
    assert problems(FULL, GOOD, scores=2, child=child) == [wrong, ""]
    assert problems(NEGATIVE, FULL, scores=2, child=child) == ["input_ids", wrong]
