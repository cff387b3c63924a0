"""Section 2 of docs/semantics.md: what a sequence holds."""

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest
from tests.checks import prompts
from tests.reference import reference

from sampler_core.base import SamplerBase

REF = reference()
EOS = REF.eos_ids[0]
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Parse this line."}]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


@pytest.mark.rule("S2.1", "S2.4", "S2.5")
@pytest.mark.parametrize(
    ("params", "reason", "matched", "last"),
    [
        pytest.param({"logit_bias": {EOS: 100.0}}, "stop", None, EOS, id="the end token"),
        pytest.param(
            {"logit_bias": {400: 100.0}, "stop_token_ids": [400]}, "stop", 400, 400, id="a stop id"
        ),
        pytest.param({"logit_bias": {400: 100.0}}, "length", None, 400, id="the length"),
    ],
)
def test_the_token_that_ends_a_sequence_is_its_last(
    sampler: SamplerBase, params: dict[str, Any], reason: str, matched: int | None, last: int
) -> None:
    (response,) = sampler.sample(
        {"input_ids": prompts(REF)[0]}, {"max_tokens": 3, "logprobs": 1, **params}
    )
    (sequence,) = response.sequences
    assert sequence.stop_reason == reason
    assert sequence.stop_matched == matched
    assert sequence.tokens == [last] * (1 if reason == "stop" else 3)
    assert sequence.logprobs is not None
    assert len(sequence.logprobs) == len(sequence.tokens)


@pytest.mark.rule("S2.1", "S2.3", "S2.4", "S2.5")
def test_a_stop_string_cuts_tokens_and_logprobs_alike(sampler: SamplerBase) -> None:
    ids = prompts(REF)[0]
    params: dict[str, Any] = {"max_tokens": 60, "temperature": 0, "logprobs": 3}
    (free,) = sampler.sample({"input_ids": ids}, params)[0].sequences
    assert free.decoded is not None
    stop = REF.decode(free.tokens[20:22])[:-1]
    (cut,) = sampler.sample({"input_ids": ids}, {**params, "stop": stop})[0].sequences
    assert (cut.stop_reason, cut.stop_matched) == ("stop", stop)
    assert 0 < len(cut.tokens) <= 22
    assert cut.tokens == free.tokens[: len(cut.tokens)]
    assert stop in (cut.decoded or "")
    assert stop not in REF.decode(cut.tokens[:-1])
    assert cut.logprobs is not None
    assert len(cut.logprobs) == len(cut.tokens)


@pytest.mark.rule("S2.2")
def test_the_text_is_that_of_all_tokens_special_ones_too(sampler: SamplerBase) -> None:
    params = {"logit_bias": {EOS: 100.0}, "max_tokens": 3, "ignore_eos": True}
    (sequence,) = sampler.sample({"input_ids": prompts(REF)[0]}, params)[0].sequences
    assert sequence.decoded == "<|im_end|>" * 3
    (sequence,) = sampler.sample({"input_ids": prompts(REF)[0]}, {"max_tokens": 20, "seed": 1})[
        0
    ].sequences
    assert sequence.decoded == REF.decode(sequence.tokens)


@pytest.mark.rule("S2.3")
def test_there_are_no_logprobs_that_nobody_asked_for(sampler: SamplerBase) -> None:
    (sequence,) = sampler.sample({"input_ids": [5, 6]}, {"max_tokens": 2})[0].sequences
    assert sequence.logprobs is None


@pytest.mark.rule("S2.6")
def test_a_response_counts_its_tokens(sampler: SamplerBase) -> None:
    texts = prompts(REF)[:2]
    responses = sampler.sample(
        [{"input_ids": ids} for ids in texts],
        {"max_tokens": 7, "num_samples": 2, "ignore_eos": True},
    )
    for ids, response in zip(texts, responses, strict=True):
        assert response.prompt_token_ids == ids
        assert response.usage is not None
        assert response.usage.prompt_tokens == len(ids)
        assert response.usage.completion_tokens == 14


@pytest.mark.rule("S2.7")
def test_a_sequence_says_where_its_tokens_came_from(sampler: SamplerBase) -> None:
    responses = sampler.sample({"input_ids": prompts(REF)[0]}, {"max_tokens": 9}, num_samples=2)
    for sequence in responses.sequences:
        assert sequence.revision is not None
        assert sequence.revision.base.startswith("sha256:")
        assert sequence.revision.adapter is None
        place = 0
        for segment in sequence.segments:
            assert segment.start == place
            assert segment.replica
            assert segment.revision == sequence.revision
            place = segment.end
        assert place == len(sequence.tokens)
        assert sequence.segments[-1].ended == "finished"


def trained(labels: list[int]) -> list[int]:
    """Labels in the place of their own token, without those that are not trained."""
    return [label for label in [*labels[-1:], *labels[:-1]] if label != -100]


@pytest.mark.rule("S2.8", "S2.9", "S2.10")
def test_an_encoded_input_is_continued(sampler: SamplerBase) -> None:
    ids = prompts(REF)[0]
    own = [-100] * (len(ids) - 2) + ids[-2:]
    shifted = [*own[1:], *own[:1]]
    given = {
        "input_ids": ids,
        "labels": shifted,
        "attention_mask": [1] * len(ids),
        "position_ids": list(range(len(ids))),
        "length": len(ids),
        "completion_mask": [0] * len(ids),
        "user_data": [("answer", "42")],
        "anything": {"nested": [1, {"deep": "x"}]},
    }
    before = copy.deepcopy(given)
    (sequence,) = sampler.sample(given, {"max_tokens": 6, "logprobs": 1})[0].sequences
    feature = sequence.new_input_feature
    assert feature is not None
    assert feature["input_ids"] == ids + sequence.tokens
    assert trained(feature["labels"]) == ids[-2:] + sequence.tokens
    assert len(feature["labels"]) == len(feature["input_ids"])
    assert sum(label != -100 for label in feature["labels"]) == 2 + len(sequence.tokens)
    total = len(feature["input_ids"])
    assert feature["attention_mask"] == [1] * total
    assert feature["position_ids"] == list(range(total))
    assert feature["length"] == total
    assert feature["user_data"] == given["user_data"]
    assert feature["anything"] == given["anything"]
    feature["anything"]["nested"].append(2)
    assert given == before


@pytest.mark.rule("S2.9")
@pytest.mark.parametrize("kind_of_input", ["ids", "messages"])
def test_without_labels_only_the_completion_is_trained(
    sampler: SamplerBase, kind_of_input: str
) -> None:
    given = {"messages": MESSAGES} if kind_of_input == "messages" else {"input_ids": [5, 6, 7]}
    responses = sampler.sample(given, {"max_tokens": 6, "seed": 2}, num_samples=2)
    for sequence in responses.sequences:
        assert sequence.new_input_feature is not None
        labels = sequence.new_input_feature["labels"]
        assert trained(labels) == sequence.tokens
        assert len(labels) == len(sequence.new_input_feature["input_ids"])


@pytest.mark.rule("S2.8", "S2.10", "S2.11")
def test_a_conversation_gets_the_assistants_message(sampler: SamplerBase) -> None:
    given: dict[str, Any] = {"messages": MESSAGES, "user_data": [("a", "1")], "id": 7}
    params = {"max_tokens": 5, "logit_bias": {EOS: 4.0}, "seed": 8}
    responses = sampler.sample(given, params, num_samples=16)
    assert any(sequence.tokens[-1] == EOS for sequence in responses.sequences)
    for sequence in responses.sequences:
        feature = sequence.new_input_feature
        assert feature is not None
        text = REF.tokenizer.decode(sequence.tokens, skip_special_tokens=True)
        assert feature["messages"][:-1] == MESSAGES
        assert feature["messages"][-1]["role"] == "assistant"
        assert feature["messages"][-1]["content"] == text
        assert (feature["user_data"], feature["id"]) == ([("a", "1")], 7)
        assert feature["input_ids"] == [*(responses[0].prompt_token_ids or ()), *sequence.tokens]
        assert feature["length"] == len(feature["attention_mask"]) == len(feature["input_ids"])


class Calling:
    """The model's template, but every completion calls a tool."""

    def __init__(self, template: Any) -> None:
        self._template = template

    def __getattr__(self, name: str) -> Any:
        return getattr(self._template, name)

    def encode(self, trajectory: Any, add_generation_prompt: bool = False) -> Any:
        return self._template.encode(trajectory, add_generation_prompt=add_generation_prompt)

    def decode(self, token_ids: Any, **kwargs: Any) -> str:
        return f"Let me add.\n{CALL}"


@pytest.mark.rule("S2.12")
def test_a_tool_call_in_the_text_becomes_one_in_the_message(second_sampler: SamplerBase) -> None:
    second_sampler.set_template(Calling(second_sampler.template))
    (sequence,) = second_sampler.sample({"messages": MESSAGES}, {"max_tokens": 2})[0].sequences
    assert sequence.new_input_feature is not None
    message = sequence.new_input_feature["messages"][-1]
    (call,) = message["tool_calls"]
    assert call["type"] == "function"
    assert call["function"]["name"] == "add"
    arguments = call["function"]["arguments"]
    assert (json.loads(arguments) if isinstance(arguments, str) else arguments) == {"a": 1}
    assert "tool_call" not in message["content"]


@pytest.mark.rule("S2.13")
def test_arrays_come_back_as_lists(sampler: SamplerBase) -> None:
    given = {
        "input_ids": np.array([5, 6, 7]),
        "labels": np.array([-100, -100, -100]),
        "attention_mask": np.ones((1, 3), np.int64),
        "reward": np.float32(0.5),
        "more": {"scores": np.arange(3)},
    }
    (sequence,) = sampler.sample(given, {"max_tokens": 2})[0].sequences
    feature = sequence.new_input_feature
    assert feature is not None
    assert json.loads(json.dumps(feature)) == feature
    assert feature["reward"] == 0.5
    assert feature["more"] == {"scores": [0, 1, 2]}
    assert type(feature["reward"]) is float


@pytest.mark.rule("S2.14")
@pytest.mark.parametrize("k", [1, 3])
def test_logprobs_behave_like_a_list(sampler: SamplerBase, k: int) -> None:
    params = {"max_tokens": 6, "logprobs": k, "ignore_eos": True, "top_k": 2}
    (sequence,) = sampler.sample({"input_ids": [5, 6]}, params)[0].sequences
    rows = sequence.logprobs
    assert rows is not None
    plain: list[list[tuple[int, float]]] = rows.tolist()  # type: ignore[union-attr]
    assert type(plain) is list
    assert [type(row) for row in plain] == [list] * 6
    assert rows == plain
    assert plain == rows
    assert list(rows) == plain
    assert [rows[i] for i in range(-6, 6)] == [plain[i] for i in range(-6, 6)]
    assert rows[1:-1] == plain[1:-1]
    assert rows[::2] == plain[::2]
    assert rows + rows == plain + plain
    assert [*rows] == plain
    assert pickle.loads(pickle.dumps(rows)) == plain
    assert copy.deepcopy(rows) == plain
    assert [row[0][1] for row in rows] == [row[0][1] for row in plain]
    with pytest.raises(IndexError):
        rows[6]


@pytest.mark.rule("S2.15")
def test_responses_can_be_pickled(sampler: SamplerBase) -> None:
    responses = sampler.sample(
        [{"messages": MESSAGES}, {"input_ids": [5, 6]}],
        {"max_tokens": 4, "logprobs": 2, "prompt_logprobs": 1},
        num_samples=2,
    )
    copies = pickle.loads(pickle.dumps(responses))
    assert type(copies) is type(responses)
    assert copies.sequences == responses.sequences
    for a, b in zip(copies, responses, strict=True):
        assert a.prompt_token_ids == b.prompt_token_ids
        assert a.prompt_logprobs == b.prompt_logprobs
        assert a.topk_prompt_logprobs == b.topk_prompt_logprobs
    for c, d in zip(copies.sequences, responses.sequences, strict=True):
        assert (c.decoded, c.new_input_feature) == (d.decoded, d.new_input_feature)
        assert c.segments == d.segments
