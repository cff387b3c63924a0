"""Section 1 of docs/semantics.md: calls and inputs."""

import asyncio
import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from tests.checks import assert_explained, prompts
from tests.reference import reference
from tests.tiny_models import tiny_model

from sampler_api.errors import InvalidRequest, Unsupported
from sampler_api.params import SamplingParams
from sampler_api.results import Responses
from sampler_core.base import SamplerBase
from sampler_core.template import Template

REF = reference()
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "You are a parser."},
    {"role": "user", "content": "Parse this line."},
]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6, "logprobs": 1}


def chat_ids(messages: list[dict[str, Any]], prompted: bool = True) -> list[int]:
    """A conversation as the model's own tokenizer renders it."""
    text = REF.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=prompted
    )
    return REF.encode(text)


def all_tokens(responses: Responses) -> list[list[int]]:
    return [sequence.tokens for sequence in responses.sequences]


@pytest.mark.rule("S1.1", "S1.2")
def test_one_response_per_input_in_order_whatever_finishes_first(sampler: SamplerBase) -> None:
    params = SamplingParams(
        max_tokens=40, seed=3, logprobs=1, logit_bias={2: 5.0}, ignore_eos=False
    )
    texts = prompts(REF) * 3
    responses = sampler.sample([{"input_ids": ids} for ids in texts], params, num_samples=3)
    assert len(responses) == len(texts)
    assert [len(response.sequences) for response in responses] == [3] * len(texts)
    lengths = {len(sequence.tokens) for sequence in responses.sequences}
    assert len(lengths) > 3, "the test needs sequences that end at different times"
    for ids, response in zip(texts, responses, strict=True):
        assert response.prompt_token_ids == ids
        for sequence in response.sequences:
            assert_explained(REF, ids, sequence, params)


@pytest.mark.rule("S1.2")
def test_the_answer_is_a_list_with_a_flat_view(sampler: SamplerBase) -> None:
    responses = sampler.sample(
        [{"input_ids": ids} for ids in prompts(REF)], {"max_tokens": 2}, num_samples=2
    )
    assert isinstance(responses, list)
    nested = [sequence for response in responses for sequence in response.sequences]
    assert [id(each) for each in responses.sequences] == [id(each) for each in nested]
    assert isinstance(responses.sequences, list)


@pytest.mark.rule("S1.3")
def test_a_single_input_gives_a_list_of_one(sampler: SamplerBase) -> None:
    one = {"input_ids": prompts(REF)[0]}
    alone = sampler.sample(one, GREEDY)
    assert len(alone) == 1
    assert all_tokens(alone) == all_tokens(sampler.sample([one], GREEDY))


@pytest.mark.rule("S1.4", "S1.5", "S1.13")
def test_conversations_and_encoded_inputs_in_one_call(sampler: SamplerBase) -> None:
    encoded = prompts(REF)[1]
    inputs: list[dict[str, Any]] = [
        {"messages": MESSAGES},
        {"input_ids": encoded},
        {"messages": MESSAGES[1:]},
    ]
    responses = sampler.sample(inputs, GREEDY)
    assert [response.prompt_token_ids for response in responses] == [
        chat_ids(MESSAGES),
        encoded,
        chat_ids(MESSAGES[1:]),
    ]
    reverse = sampler.sample(inputs[::-1], GREEDY)
    assert all_tokens(reverse) == all_tokens(responses)[::-1]


@pytest.mark.rule("S1.4")
def test_an_input_with_ids_and_messages_is_encoded(sampler: SamplerBase) -> None:
    ids = prompts(REF)[2]
    (response,) = sampler.sample({"messages": MESSAGES, "input_ids": ids}, GREEDY)
    assert response.prompt_token_ids == ids


@pytest.mark.rule("S1.5")
def test_scoring_renders_a_conversation_without_a_new_turn(sampler: SamplerBase) -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": "Done."}]
    (response,) = sampler.sample({"messages": messages}, {"max_tokens": 0, "prompt_logprobs": 0})
    assert response.prompt_token_ids == chat_ids(messages, prompted=False)


@pytest.mark.rule("S1.6")
def test_nothing_of_the_caller_is_changed(sampler: SamplerBase) -> None:
    inputs: list[dict[str, Any]] = [
        {"messages": copy.deepcopy(MESSAGES), "user_data": [("key", "[1]")]},
        {"input_ids": list(prompts(REF)[0]), "labels": [-100] * len(prompts(REF)[0])},
    ]
    params: dict[str, Any] = {"max_new_tokens": 3, "n": 2, "stop": ["zzz"], "logit_bias": {5: 1}}
    before = copy.deepcopy((inputs, params))
    responses = sampler.sample(inputs, params)
    for sequence in responses.sequences:
        feature = sequence.new_input_feature
        assert feature is not None
        feature["input_ids"].append(-1)
        feature["labels"].append(-1)
        feature.get("messages", []).append(None)
        feature.get("user_data", []).append(None)
    assert (inputs, params) == before


@pytest.mark.rule("S1.7")
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda ids: tuple(ids), id="a tuple"),
        pytest.param(lambda ids: [ids], id="one row in a list"),
        pytest.param(lambda ids: np.array(ids), id="an int64 array"),
        pytest.param(lambda ids: np.array([ids], np.uint16), id="a row of uint16"),
        pytest.param(lambda ids: [np.int32(i) for i in ids], id="numpy integers"),
        pytest.param(lambda ids: __import__("torch").tensor(ids), id="a tensor"),
        pytest.param(lambda ids: __import__("torch").tensor([ids]), id="a tensor of one row"),
    ],
)
def test_ids_may_be(sampler: SamplerBase, make: Callable[[list[int]], Any]) -> None:
    ids = prompts(REF)[0]
    (response,) = sampler.sample({"input_ids": make(ids)}, GREEDY)
    assert response.prompt_token_ids == ids
    assert response.sequences[0].tokens == REF.greedy(ids, SamplingParams(**GREEDY)).tokens


@dataclass
class OtherParams:
    """Parameters of another library."""

    max_tokens: int = 6
    temperature: float = 0.0
    logprobs: int = 1


@pytest.mark.rule("S1.8")
def test_parameters_may_be_a_dict_or_a_dataclass(sampler: SamplerBase) -> None:
    ids = {"input_ids": prompts(REF)[0]}
    wanted = all_tokens(sampler.sample(ids, GREEDY))
    assert all_tokens(sampler.sample(ids, SamplingParams(**GREEDY))) == wanted
    assert all_tokens(sampler.sample(ids, OtherParams())) == wanted  # type: ignore[arg-type]


@pytest.mark.rule("S1.8", "S3.1")
def test_no_parameters_are_the_defaults(sampler: SamplerBase) -> None:
    ids = np.random.default_rng(0).integers(3, 1024, REF.context - 3).tolist()
    (response,) = sampler.sample({"input_ids": ids}, None)
    assert response.sequences[0].stop_reason in ("stop", "length")
    assert len(response.sequences[0].tokens) <= 3
    assert response.sequences[0].logprobs is None


@pytest.mark.rule("S1.9")
def test_a_dict_may_use_other_names(sampler: SamplerBase) -> None:
    responses = sampler.sample(
        {"input_ids": prompts(REF)[0]}, {"max_new_tokens": 4, "n": 3, "ignore_eos": True}
    )
    assert [len(tokens) for tokens in all_tokens(responses)] == [4, 4, 4]


@pytest.mark.rule("S1.9")
@pytest.mark.parametrize(
    ("params", "words"),
    [
        pytest.param({"temprature": 1.0}, ["temprature", "temperature"], id="a misspelt name"),
        pytest.param({"max_new_token": 1}, ["max_new_token", "max_new_tokens"], id="an alias"),
        pytest.param({"n": 2, "num_samples": 2}, ["num_samples"], id="a thing named twice"),
    ],
)
def test_names_are_checked(sampler: SamplerBase, params: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        sampler.sample({"input_ids": [5]}, params)
    assert all(word in str(raised.value) for word in words)


@pytest.mark.rule("S1.10")
@pytest.mark.parametrize(
    ("keyword", "field", "number"), [(3, 1, 3), (1, 3, 3), (2, 2, 2), (1, 1, 1)]
)
def test_the_number_of_samples_stands_in_one_place(
    sampler: SamplerBase, keyword: int, field: int, number: int
) -> None:
    params = SamplingParams(max_tokens=1, num_samples=field)
    responses = sampler.sample({"input_ids": [5, 6]}, params, num_samples=keyword)
    assert len(responses[0].sequences) == number


@pytest.mark.rule("S1.10")
def test_two_numbers_of_samples_are_refused(sampler: SamplerBase) -> None:
    with pytest.raises(InvalidRequest, match="num_samples") as raised:
        sampler.sample({"input_ids": [5]}, {"num_samples": 2}, num_samples=3)
    assert raised.value.field == "num_samples"


@pytest.mark.rule("S1.11")
def test_two_ways_to_switch_top_k_off(sampler: SamplerBase) -> None:
    ids = {"input_ids": prompts(REF)[0]}
    tokens = [
        all_tokens(sampler.sample(ids, {"max_tokens": 8, "seed": 1, "top_k": k}))
        for k in (0, -1, 1024)
    ]
    assert tokens[0] == tokens[1] == tokens[2]


class Reversing(Template):
    """A template of somebody's own."""

    def encode(self, trajectory: Any, add_generation_prompt: bool = False) -> dict[str, Any]:
        made = super().encode(trajectory, add_generation_prompt)
        return {**made, "input_ids": made["input_ids"][::-1]}


class Duck:
    """Looks like a template."""

    def encode(self, trajectory: Any, add_generation_prompt: bool = False) -> dict[str, Any]:
        return {**trajectory, "input_ids": [7, 8, 9]}

    def decode(self, token_ids: Any, **kwargs: Any) -> str:
        return "quack " * len(token_ids)


@pytest.mark.rule("S1.12")
def test_a_template_may_be_given_in_every_form(second_sampler: SamplerBase) -> None:
    model = str(tiny_model())
    plain, turned = chat_ids(MESSAGES), chat_ids(MESSAGES)[::-1]
    forms: list[tuple[Any, dict[str, Any], list[int]]] = [
        (Reversing, {"model_id": model}, turned),
        (Template, {"model_id": model}, plain),
        (Reversing(model_id=model), {}, turned),
        ("Template", {"model_id": model}, plain),
        (Duck(), {}, [7, 8, 9]),
        (model, {}, plain),
    ]
    for template, kwargs, ids in forms:
        second_sampler.set_template(template, **kwargs)
        (response,) = second_sampler.sample({"messages": MESSAGES}, GREEDY)
        assert response.prompt_token_ids == ids
        decoded = response.sequences[0].decoded
        length = len(response.sequences[0].tokens)
        assert (decoded == "quack " * length) == isinstance(template, Duck)


@pytest.mark.rule("S1.14")
@pytest.mark.parametrize(
    ("more", "key"),
    [
        pytest.param({"images": ["a.png"]}, "images", id="images"),
        pytest.param({"videos": ["a.mp4"]}, "videos", id="videos"),
        pytest.param({"audios": ["a.wav"]}, "audios", id="audios"),
        pytest.param({"pixel_values": np.ones(3)}, "pixel_values", id="pixels"),
        pytest.param({"routed_experts": [[1]]}, "routed_experts", id="router replay"),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "image", "image": "a"}]}]},
            "messages",
            id="an image in a message",
        ),
    ],
)
def test_other_media_are_refused(sampler: SamplerBase, more: dict[str, Any], key: str) -> None:
    bad = {"messages": MESSAGES, **more}
    with pytest.raises(Unsupported, match=key) as raised:
        sampler.sample([bad, {"input_ids": [5]}], {"max_tokens": 1})
    assert raised.value.field == key
    assert len(raised.value.responses[1].sequences[0].tokens) == 1


@pytest.mark.rule("S1.14")
@pytest.mark.parametrize("key", ["guided_json", "structured_outputs", "response_format"])
def test_structured_output_is_refused(sampler: SamplerBase, key: str) -> None:
    with pytest.raises(Unsupported, match=key) as raised:
        sampler.sample({"input_ids": [5]}, {"max_tokens": 1, key: {"type": "object"}})
    assert raised.value.field == key


@pytest.mark.rule("S1.15")
async def test_asample_gives_what_sample_gives(sampler: SamplerBase) -> None:
    inputs: list[dict[str, Any]] = [{"messages": MESSAGES}, {"input_ids": prompts(REF)[0]}]
    params = {"max_tokens": 8, "seed": 4, "logprobs": 2}
    found = await sampler.asample(inputs, params, num_samples=2)
    wanted = await asyncio.to_thread(sampler.sample, inputs, params, num_samples=2)
    assert isinstance(found, list)
    assert all_tokens(found) == all_tokens(wanted)
    for a, b in zip(found.sequences, wanted.sequences, strict=True):
        assert a.logprobs is not None
        assert b.logprobs is not None
        np.testing.assert_allclose(
            [row[0][1] for row in a.logprobs], [row[0][1] for row in b.logprobs], atol=1e-4
        )


@pytest.mark.rule("S1.16")
def test_threads_and_loops_share_a_sampler(sampler: SamplerBase) -> None:
    texts = prompts(REF)
    params = SamplingParams(temperature=0, max_tokens=12, logprobs=1)

    def call(ids: list[int]) -> None:
        (response,) = sampler.sample({"input_ids": ids}, params)
        assert_explained(REF, ids, response.sequences[0], params)

    async def calls() -> None:
        for response in await asyncio.gather(
            *(sampler.asample({"input_ids": ids}, params) for ids in texts)
        ):
            ids = response[0].prompt_token_ids
            assert ids is not None
            assert_explained(REF, ids, response[0].sequences[0], params)

    with ThreadPoolExecutor(8) as pool:
        waits = [pool.submit(call, ids) for ids in texts * 3]
        waits += [pool.submit(asyncio.run, calls()) for _ in range(2)]
        for wait in waits:
            wait.result()


@pytest.mark.rule("S1.17")
def test_a_late_short_sequence_finishes_before_an_early_long_one(sampler: SamplerBase) -> None:
    has_ended = threading.Event()
    lengths: list[int] = []

    def long_call() -> None:
        params = {"max_tokens": 1500, "ignore_eos": True}
        (response,) = sampler.sample({"input_ids": [5, 6, 7]}, params)
        lengths.append(len(response.sequences[0].tokens))
        has_ended.set()

    thread = threading.Thread(target=long_call)
    thread.start()
    # Several: the first may come before the long one has begun, the others do not.
    for _ in range(5):
        sampler.sample({"input_ids": [8, 9]}, {"max_tokens": 2, "ignore_eos": True})
    assert not has_ended.is_set()
    thread.join()
    assert lengths == [1500]
