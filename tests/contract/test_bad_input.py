"""Calls with something wrong in them: a typed error that names the field, on that input alone."""

from typing import Any

import numpy as np
import pytest
from tests.checks import prompts
from tests.reference import reference
from tests.tiny_adapters import tiny_adapter

from sampler_api.errors import (
    AdapterInvalid,
    InvalidRequest,
    PayloadTooLarge,
    SamplerError,
    Unsupported,
)
from sampler_api.params import SamplingParams
from sampler_core.base import SamplerBase

REF = reference()
GOOD = prompts(REF)[0]
GREEDY = SamplingParams(temperature=0, max_tokens=4)
EXPECTED = REF.greedy(GOOD, GREEDY).tokens

INPUTS: dict[str, tuple[Any, str]] = {
    "an empty prompt": ({"input_ids": []}, "input_ids"),
    "an empty row": ({"input_ids": [[]]}, "input_ids"),
    "an empty array": ({"input_ids": np.array([], np.int64)}, "input_ids"),
    "an id beyond the vocabulary": ({"input_ids": [5, 1024]}, "input_ids"),
    "a negative id": ({"input_ids": [5, -1]}, "input_ids"),
    "an id of more than 64 bits": ({"input_ids": [5, 2**70]}, "input_ids"),
    "fractions": ({"input_ids": [5.5]}, "input_ids"),
    "an array of floats": ({"input_ids": np.ones(3)}, "input_ids"),
    "booleans": ({"input_ids": [True, False]}, "input_ids"),
    "texts for ids": ({"input_ids": ["5"]}, "input_ids"),
    "one text for ids": ({"input_ids": "hello"}, "input_ids"),
    "a number for ids": ({"input_ids": 5}, "input_ids"),
    "two rows": ({"input_ids": [[5], [6]]}, "input_ids"),
    "a prompt of the whole context": ({"input_ids": [5] * 2048}, "input_ids"),
    "a prompt beyond the context": ({"input_ids": [5] * 5000}, "input_ids"),
    "neither ids nor messages": ({"user_data": []}, "messages"),
    "an empty dict": ({}, "messages"),
    "no messages": ({"messages": []}, "messages"),
    "messages of a wrong type": ({"messages": "hello"}, "messages"),
    "a message of a wrong type": ({"messages": ["hello"]}, "messages"),
    "a conversation beyond the context": (
        {"messages": [{"role": "user", "content": "word " * 5000}]},
        "input_ids",
    ),
    "labels of another length": ({"input_ids": [5, 6], "labels": [1]}, "labels"),
    "padding": ({"input_ids": [5, 6], "attention_mask": [0, 1]}, "attention_mask"),
    "an image": ({"input_ids": [5], "images": ["a"]}, "images"),
    "router replay": ({"input_ids": [5], "routed_experts": [1]}, "routed_experts"),
}

PARAMS: dict[str, tuple[dict[str, Any], str]] = {
    "NaN temperature": ({"temperature": float("nan")}, "temperature"),
    "infinite temperature": ({"temperature": float("inf")}, "temperature"),
    "negative temperature": ({"temperature": -0.1}, "temperature"),
    "a text as temperature": ({"temperature": "1"}, "temperature"),
    "a boolean as temperature": ({"temperature": True}, "temperature"),
    "no temperature": ({"temperature": None}, "temperature"),
    "n = 0": ({"n": 0}, "num_samples"),
    "negative n": ({"num_samples": -1}, "num_samples"),
    "a boolean as n": ({"num_samples": True}, "num_samples"),
    "half a sample": ({"num_samples": 1.5}, "num_samples"),
    "too many samples": ({"num_samples": 10**6}, "num_samples"),
    "negative max_tokens": ({"max_tokens": -1}, "max_tokens"),
    "a fraction of max_tokens": ({"max_tokens": 2.5}, "max_tokens"),
    "min_tokens above max_tokens": ({"max_tokens": 2, "min_tokens": 3}, "min_tokens"),
    "negative min_tokens": ({"min_tokens": -1}, "min_tokens"),
    "top_p = 0": ({"top_p": 0}, "top_p"),
    "top_p above 1": ({"top_p": 1.1}, "top_p"),
    "NaN top_p": ({"top_p": float("nan")}, "top_p"),
    "top_k = -2": ({"top_k": -2}, "top_k"),
    "a fraction of top_k": ({"top_k": 0.5}, "top_k"),
    "negative min_p": ({"min_p": -0.1}, "min_p"),
    "min_p above 1": ({"min_p": 1.1}, "min_p"),
    "repetition_penalty = 0": ({"repetition_penalty": 0}, "repetition_penalty"),
    "NaN repetition_penalty": ({"repetition_penalty": float("nan")}, "repetition_penalty"),
    "presence_penalty out of range": ({"presence_penalty": 2.1}, "presence_penalty"),
    "frequency_penalty out of range": ({"frequency_penalty": -3}, "frequency_penalty"),
    "negative logprobs": ({"logprobs": -1}, "logprobs"),
    "boolean logprobs": ({"logprobs": True}, "logprobs"),
    "too many logprobs": ({"logprobs": 10**6}, "logprobs"),
    "negative prompt_logprobs": ({"prompt_logprobs": -1}, "prompt_logprobs"),
    "an unknown mode of logprobs": ({"logprobs_mode": "best"}, "logprobs_mode"),
    "an empty stop string": ({"stop": ["a", ""]}, "stop"),
    "stop of a wrong type": ({"stop": 1.5}, "stop"),
    "a stop that is none": ({"stop": [None]}, "stop"),
    "a stop id beyond the vocabulary": ({"stop_token_ids": [1024]}, "stop_token_ids"),
    "a negative stop id": ({"stop_token_ids": [-1]}, "stop_token_ids"),
    "stop ids of a wrong type": ({"stop_token_ids": 5}, "stop_token_ids"),
    "a bias beyond the vocabulary": ({"logit_bias": {1024: 1.0}}, "logit_bias"),
    "an infinite bias": ({"logit_bias": {5: float("inf")}}, "logit_bias"),
    "a bias of a wrong type": ({"logit_bias": [5]}, "logit_bias"),
    "a bad word of no letters": ({"bad_words": [""]}, "bad_words"),
    "one text as bad words": ({"bad_words": "word"}, "bad_words"),
    "a text as seed": ({"seed": "1"}, "seed"),
    "a fraction as seed": ({"seed": 1.5}, "seed"),
    "ignore_eos of a wrong type": ({"ignore_eos": 1}, "ignore_eos"),
    "an unknown parameter": ({"temprature": 1}, "temprature"),
    "a parameter that is no text": ({5: 1}, "5"),  # type: ignore[dict-item]
    "structured output": ({"guided_json": {}}, "guided_json"),
}


def goes_on(sampler: SamplerBase) -> None:
    """The next call is served."""
    (response,) = sampler.sample({"input_ids": GOOD}, GREEDY)
    assert response.sequences[0].tokens == EXPECTED


@pytest.mark.rule("S9.1", "S9.3", "S9.6")
@pytest.mark.parametrize("case", INPUTS)
def test_an_input_is_refused_alone(sampler: SamplerBase, case: str) -> None:
    bad, field = INPUTS[case]
    with pytest.raises(InvalidRequest) as raised:
        sampler.sample([{"input_ids": GOOD}, bad, {"input_ids": GOOD}], GREEDY)
    error = raised.value
    assert error.field == field
    assert field in str(error)
    assert "inputs[1]" in str(error)
    assert list(error.errors or ()) == [1]
    for index in (0, 2):
        assert error.responses[index].sequences[0].tokens == EXPECTED
    assert error.responses[1].sequences[0].stop_reason == "error"
    goes_on(sampler)


@pytest.mark.rule("S9.3", "S9.4", "S9.6", "S9.8")
@pytest.mark.parametrize("case", PARAMS)
def test_parameters_are_refused(sampler: SamplerBase, case: str) -> None:
    params, field = PARAMS[case]
    with pytest.raises((InvalidRequest, PayloadTooLarge)) as raised:
        sampler.sample([{"input_ids": GOOD}] * 2, {"max_tokens": 4, **params})
    assert raised.value.field == field
    assert field in str(raised.value)
    assert not raised.value.retryable
    goes_on(sampler)


@pytest.mark.rule("S9.3", "S9.4", "S9.6")
@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        pytest.param({"inputs": []}, "inputs", id="no inputs"),
        pytest.param({"inputs": None}, "inputs", id="nothing for inputs"),
        pytest.param({"inputs": "hello"}, "inputs", id="a text for inputs"),
        pytest.param({"inputs": [[5, 6]]}, "inputs", id="a list for an input"),
        pytest.param({"inputs": [{"input_ids": [5]}, None]}, "inputs", id="nothing for an input"),
        pytest.param({"num_samples": 0}, "num_samples", id="no samples"),
        pytest.param({"num_samples": True}, "num_samples", id="a boolean number of samples"),
        pytest.param({"sampling_params": 5}, "sampling_params", id="a number for parameters"),
        pytest.param({"on_error": "ignore"}, "on_error", id="an unknown way with errors"),
        pytest.param({"adapter_name": "nobody"}, "adapter_name", id="an unknown adapter"),
        pytest.param({"adapter_name": None}, "adapter_name", id="nothing for an adapter"),
        pytest.param({"adapter_name": 5}, "adapter_name", id="a number for an adapter"),
        pytest.param({"adapter_path": ""}, "adapter_path", id="an empty directory of an adapter"),
        pytest.param({"adapter_path": 5}, "adapter_path", id="a number for a directory"),
        pytest.param({"group_key": ["a", "b"]}, "group_key", id="too many group keys"),
        pytest.param({"group_key": 5}, "group_key", id="a number for a group key"),
        pytest.param({"group_key": [5]}, "group_key", id="a number among group keys"),
        pytest.param({"session_key": 5}, "session_key", id="a number for a session key"),
    ],
)
def test_arguments_are_refused(sampler: SamplerBase, arguments: dict[str, Any], field: str) -> None:
    call: dict[str, Any] = {"inputs": {"input_ids": GOOD}, "sampling_params": GREEDY, **arguments}
    with pytest.raises(InvalidRequest) as raised:
        sampler.sample(**call)
    assert raised.value.field == field
    assert field in str(raised.value)
    goes_on(sampler)


@pytest.mark.rule("S9.3", "S10.4", "S10.11")
@pytest.mark.parametrize(
    ("arguments", "cls", "word"),
    [
        pytest.param(("a/b", "good"), InvalidRequest, "adapter_name", id="a name with a slash"),
        pytest.param(("", "good"), InvalidRequest, "adapter_name", id="an empty name"),
        pytest.param(("wrong", "/nowhere/at/all"), AdapterInvalid, "/nowhere", id="no directory"),
        pytest.param(("wrong", 5), SamplerError, "adapter", id="a number for a directory"),
        pytest.param(("wrong", "file"), AdapterInvalid, "adapter_config.json", id="a file"),
    ],
)
def test_adapters_are_refused(
    sampler: SamplerBase, arguments: tuple[str, Any], cls: type[SamplerError], word: str
) -> None:
    name, source = arguments
    good = tiny_adapter("a1")
    paths = {"good": str(good), "file": str(good / "adapter_config.json")}
    with pytest.raises(cls, match=word):
        sampler.add_adapter_to_model(name, paths.get(source, source))
    goes_on(sampler)


@pytest.mark.rule("S9.3")
@pytest.mark.parametrize("generation", ["1", 1.5, True])
def test_a_generation_that_is_no_integer_is_refused(sampler: SamplerBase, generation: Any) -> None:
    with pytest.raises(InvalidRequest, match="generation: must be an integer"):
        sampler.add_adapter_to_model("wrong", str(tiny_adapter("a1")), generation=generation)


@pytest.mark.rule("S9.3", "S10.11")
def test_a_directory_of_one_call_is_refused(sampler: SamplerBase) -> None:
    with pytest.raises(AdapterInvalid, match="/nowhere/at/all"):
        sampler.sample({"input_ids": GOOD}, GREEDY, adapter_path="/nowhere/at/all")
    goes_on(sampler)


@pytest.mark.rule("S9.3", "S1.12")
@pytest.mark.parametrize(
    "template",
    [
        pytest.param(5, id="a number"),
        pytest.param("Temlate", id="a misspelt class"),
        pytest.param(object(), id="an object that cannot encode"),
    ],
)
def test_templates_are_refused(own_sampler: SamplerBase, template: Any) -> None:
    with pytest.raises(InvalidRequest, match="template"):
        own_sampler.set_template(template)
    goes_on(own_sampler)


@pytest.mark.rule("S1.14", "S9.3")
def test_what_a_later_version_may_serve_is_unsupported(sampler: SamplerBase) -> None:
    with pytest.raises(Unsupported, match="images"):
        sampler.sample({"messages": [{"role": "user", "content": "a", "images": ["b"]}]}, GREEDY)
    goes_on(sampler)
