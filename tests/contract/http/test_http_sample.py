"""The JSON route over real HTTP, in front of the sim engine."""

import json
from typing import Any

import httpx
import pytest
from tests.http_calls import BASE, UNKNOWN, reference, running, sample, text_of, wait
from tests.servers import Server

from sampler_client import RemoteSampler


class TestSample:
    """POST /v1/sample."""

    def test_every_input_has_its_entry_with_all_that_was_asked_for(
        self, client: httpx.Client
    ) -> None:
        params = {"max_tokens": 6, "seed": 5, "logprobs": 2, "prompt_logprobs": 1}
        answer = sample(
            client, [{"input_ids": [1, 2]}, {"input_ids": [3]}], n=2, sampling_params=params
        )
        assert answer.status_code == 200
        first, second = answer.json()["responses"]
        tokens = [s["tokens"] for s in first["sequences"] + second["sequences"]]
        assert tokens == [
            reference(p, i, k, 6) for i, p in enumerate([[1, 2], [3]]) for k in (0, 1)
        ]
        assert [[row[0][0] for row in s["logprobs"]] for s in first["sequences"]] == tokens[:2]
        assert {len(row) for s in first["sequences"] for row in s["logprobs"]} == {2}
        assert first["sequences"][0]["stop_reason"] == "length"
        assert first["sequences"][0]["text"] == text_of(tokens[0])
        assert first["revision"] == {"base": BASE, "adapter": None}
        assert first["prompt_logprobs"][0] is None
        assert len(first["topk_prompt_logprobs"][1]) == 1
        assert first["usage"] == {"prompt_tokens": 2, "completion_tokens": 12}

    def test_messages_are_rendered_by_the_model_s_template(self, client: httpx.Client) -> None:
        answer = sample(
            client,
            {"messages": [{"role": "user", "content": "Hi é"}]},
            sampling_params={"max_tokens": 1},
        )
        (entry,) = answer.json()["responses"]
        rendered = "user\nHi é"
        assert entry["prompt_token_ids"] == [
            *(257, *rendered.encode(), 258, 10),
            *(257, *b"assistant\n"),
        ]

    @pytest.mark.parametrize(
        "max_tokens",
        [
            pytest.param(0, id="scoring adds no turn of the assistant"),
            pytest.param(1, id="sampling adds the start of the assistant's turn"),
        ],
    )
    def test_a_conversation_has_the_prompt_that_the_sampler_gives_it(
        self, server: Server, client: httpx.Client, max_tokens: int
    ) -> None:
        talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
        params = {"max_tokens": max_tokens, "prompt_logprobs": 1}
        answer = sample(client, {"messages": talk}, sampling_params=params)
        (entry,) = answer.json()["responses"]
        with RemoteSampler(server.url) as sampler:
            (expected,) = sampler.sample({"messages": talk}, params)
        assert entry["prompt_token_ids"] == expected.prompt_token_ids
        begun = [257, *b"assistant\n"]
        assert (entry["prompt_token_ids"][-len(begun) :] == begun) == (max_tokens > 0)
        values = [expected.prompt_logprobs, expected.topk_prompt_logprobs]
        assert json.loads(json.dumps(values)) == [
            entry["prompt_logprobs"],
            entry["topk_prompt_logprobs"],
        ]

    @pytest.mark.parametrize(
        ("item", "field"),
        [
            pytest.param({"input_ids": []}, "input_ids", id="an empty prompt"),
            pytest.param({"input_ids": [259]}, "input_ids", id="an id outside the vocabulary"),
            pytest.param({"input_ids": [-1]}, "input_ids", id="a negative id"),
            pytest.param({"input_ids": [1.5]}, "input_ids", id="a fraction"),
            pytest.param({"input_ids": "abc"}, "input_ids", id="text for ids"),
            pytest.param({"input_ids": [1] * 32768}, "input_ids", id="a prompt too long"),
            pytest.param({"mesages": []}, "mesages", id="a misspelt key"),
            pytest.param({"messages": []}, "messages", id="no messages"),
            pytest.param({"messages": ["Hi"]}, "messages", id="a message that is no object"),
            pytest.param(
                {"messages": [{"role": "user", "content": "x" * 32768}]},
                "messages",
                id="messages too long",
            ),
            pytest.param({"prompt": "x" * 32768}, "prompt", id="a text too long"),
            pytest.param({"input_ids": [1], "images": ["x"]}, "images", id="an image"),
            pytest.param({}, None, id="nothing"),
        ],
    )
    def test_a_bad_input_has_an_error_and_the_others_are_answered(
        self, client: httpx.Client, item: dict[str, Any], field: str | None
    ) -> None:
        good = {"input_ids": [1, 2]}
        answer = sample(client, [good, item, good], sampling_params={"max_tokens": 2, "seed": 5})
        assert answer.status_code == 200
        first, bad, last = answer.json()["responses"]
        assert first["sequences"][0]["tokens"] == reference([1, 2], 0, 0, 2)
        assert last["sequences"][0]["tokens"] == reference([1, 2], 2, 0, 2)
        assert bad["error"]["code"] in ("invalid_request", "unsupported")
        assert field is None or bad["error"]["field"] == field

    @pytest.mark.parametrize(
        ("fields", "field", "hint"),
        [
            pytest.param(
                {"sampling_parms": {}}, "sampling_parms", "'sampling_params'", id="a field"
            ),
            pytest.param(
                {"sampling_params": {"temprature": 1}},
                "temprature",
                "'temperature'",
                id="a parameter",
            ),
            pytest.param(
                {"adapter": {"digset": 1}}, "adapter.digset", "'digest'", id="an adapter key"
            ),
            pytest.param(
                {"adapter": {"name": "x"}}, "adapter.digest", "which weights", id="no digest"
            ),
            pytest.param(
                {"sampling_params": {"temperature": -1}}, "temperature", ">= 0", id="a value"
            ),
            pytest.param({"sampling_params": {"stop": 3}}, None, "stop", id="a shape"),
            pytest.param({"n": 0}, "n", "between", id="no samples"),
            pytest.param({"n": 100_000}, "n", "between", id="too many samples"),
            pytest.param(
                {"n": 2, "sampling_params": {"n": 3}}, "num_samples", "3", id="two numbers"
            ),
            pytest.param(
                {"sampling_params": {"logprobs": 500}}, "logprobs", "259", id="too many logprobs"
            ),
        ],
    )
    def test_what_is_wrong_with_the_call_is_its_status_and_named(
        self, client: httpx.Client, fields: dict[str, Any], field: str | None, hint: str
    ) -> None:
        answer = sample(client, [{"input_ids": [1]}], **fields)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert hint in error["message"]
        assert field is None or error["field"] == field

    @pytest.mark.parametrize(
        ("body", "field", "message"),
        [
            pytest.param(b"", "body", "no JSON: Input data was truncated", id="nothing"),
            pytest.param(b'{"inputs": [', "body", "truncated", id="half a body"),
            pytest.param(b"\xff\xfe", "body", "byte 0", id="no text"),
            pytest.param(b"[]", "body", "must be a JSON object", id="a list"),
            pytest.param(b"{}", "inputs", "missing; give a list", id="no inputs"),
            pytest.param(b'{"inputs": []}', "inputs", "at least one input", id="empty inputs"),
            pytest.param(
                b'{"inputs": {"input_ids": [1]}, "sampling_params": {"temperature": NaN}}',
                "body",
                "no JSON",
                id="NaN, which is no JSON",
            ),
        ],
    )
    def test_a_body_that_is_no_request_is_told_where_it_is_wrong(
        self, client: httpx.Client, body: bytes, field: str, message: str
    ) -> None:
        answer = client.post("/v1/sample", content=body)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["code"], error["field"]) == ("invalid_request", field)
        assert error["message"].startswith(f"{field}: ")
        assert message in error["message"]

    def test_other_base_weights_are_refused(self, client: httpx.Client) -> None:
        answer = sample(client, [{"input_ids": [1]}], base=UNKNOWN)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "base_mismatch")

    def test_an_adapter_that_is_not_held_is_never_answered_by_the_base(
        self, client: httpx.Client
    ) -> None:
        answer = sample(
            client,
            [{"input_ids": [1]}],
            adapter={"digest": UNKNOWN},
            sampling_params={"max_tokens": 1},
        )
        (entry,) = answer.json()["responses"]
        (sequence,) = entry["sequences"]
        assert (sequence["tokens"], sequence["stop_reason"]) == ([], "error")
        assert sequence["error"]["code"] == "adapter_missing"

    def test_more_inputs_than_slots_are_all_answered(self) -> None:
        with Server("--max-num-seqs", "2") as small:
            answer = httpx.post(
                small.url + "/v1/sample",
                json={
                    "inputs": [{"input_ids": [i]} for i in range(40)],
                    "sampling_params": {"max_tokens": 3, "seed": 5},
                },
            )
        entries = answer.json()["responses"]
        assert [e["sequences"][0]["tokens"] for e in entries] == [
            reference([i], i, 0, 3) for i in range(40)
        ]

    def test_a_body_over_the_limit_is_refused(self, client: httpx.Client) -> None:
        answer = client.post("/v1/sample", content=b" " * (17 << 20))
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")

    def test_a_client_that_leaves_ends_its_sequences(self, slow: Server) -> None:
        body = {"inputs": {"input_ids": [1]}, "sampling_params": {"max_tokens": 3000}}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(slow.url + "/v1/sample", json=body, timeout=0.5)
        wait(lambda: running(slow) == 0)
