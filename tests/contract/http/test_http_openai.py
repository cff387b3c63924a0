"""The OpenAI routes over real HTTP, in front of the sim engine."""

import json
from typing import Any

import httpx
import pytest
from tests.http_calls import BASE, UNKNOWN, events, reference, running, text_of, wait
from tests.servers import Server

CHAT = {"model": "sim", "messages": [{"role": "user", "content": "Hi"}], "seed": 5}
CHAT_PROMPT = [257, *b"user\nHi", 258, 10, 257, *b"assistant\n"]


class TestOpenAI:
    """The OpenAI routes."""

    def chat(self, client: httpx.Client, **fields: Any) -> httpx.Response:
        return client.post("/v1/chat/completions", json={**CHAT, **fields})

    def complete(self, client: httpx.Client, prompt: Any, **fields: Any) -> httpx.Response:
        body = {"model": "sim", "prompt": prompt, "seed": 5, **fields}
        return client.post("/v1/completions", json=body)

    def test_models_names_the_base(self, client: httpx.Client) -> None:
        (model,) = client.get("/v1/models").json()["data"]
        assert (model["id"], model["base"]) == ("sim", BASE)

    def test_a_chat_answer(self, client: httpx.Client) -> None:
        body = self.chat(client, max_completion_tokens=9, n=2, return_token_ids=True).json()
        tokens = [reference(CHAT_PROMPT, 0, k, 9) for k in (0, 1)]
        assert [c["token_ids"] for c in body["choices"]] == tokens
        assert [c["message"]["content"] for c in body["choices"]] == [text_of(t) for t in tokens]
        assert [c["finish_reason"] for c in body["choices"]] == ["length"] * 2
        assert body["object"] == "chat.completion"
        assert body["usage"]["total_tokens"] == len(CHAT_PROMPT) + 18

    def test_a_chat_stream_joins_to_the_whole_answer(self, client: httpx.Client) -> None:
        fields = {"max_tokens": 300, "n": 2, "logprobs": True, "top_logprobs": 2}
        whole = self.chat(client, **fields).json()["choices"]
        answer = self.chat(client, **fields, stream=True, stream_options={"include_usage": True})
        assert answer.headers["content-type"].startswith("text/event-stream")
        *chunks, usage, done = events(answer)
        assert done == "[DONE]"
        assert usage["usage"]["completion_tokens"] == 600
        assert usage["choices"] == []
        for index, expected in enumerate(whole):
            mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
            assert mine[0]["delta"]["role"] == "assistant"
            assert "".join(c["delta"]["content"] for c in mine) == expected["message"]["content"]
            assert [c["finish_reason"] for c in mine][-1] == "length"
            content = [t for c in mine if c["logprobs"] for t in c["logprobs"]["content"]]
            assert content == expected["logprobs"]["content"]

    def test_top_logprobs_are_the_best_whatever_was_sampled(self, client: httpx.Client) -> None:
        body = self.chat(client, max_tokens=5, logprobs=True, top_logprobs=3).json()
        for entry in body["choices"][0]["logprobs"]["content"]:
            values = [top["logprob"] for top in entry["top_logprobs"]]
            assert len(values) == 3
            assert values == sorted(values, reverse=True)

    def test_completions_of_several_prompts_in_order(self, client: httpx.Client) -> None:
        body = self.complete(client, ["a", "bé"], n=2, max_tokens=4, logprobs=1).json()
        assert [c["index"] for c in body["choices"]] == [0, 1, 2, 3]
        expected = [
            text_of(reference(list(p.encode()), i, k, 4))
            for i, p in enumerate(["a", "bé"])
            for k in (0, 1)
        ]
        assert [c["text"] for c in body["choices"]] == expected
        logprobs = body["choices"][0]["logprobs"]
        assert [len(logprobs[key]) for key in ("tokens", "token_logprobs", "text_offset")] == [
            4
        ] * 3

    def test_completions_make_sixteen_tokens_unless_told(self, client: httpx.Client) -> None:
        assert self.complete(client, "a").json()["usage"]["completion_tokens"] == 16

    @pytest.mark.parametrize(
        "prompt", [pytest.param([1, 2], id="one"), pytest.param([[1, 2]], id="several")]
    )
    def test_a_prompt_may_be_token_ids(self, client: httpx.Client, prompt: Any) -> None:
        body = self.complete(client, prompt, max_tokens=3, return_token_ids=True).json()
        assert body["choices"][0]["token_ids"] == reference([1, 2], 0, 0, 3)

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_stop_string_ends_the_text_before_it(
        self, client: httpx.Client, stream: bool
    ) -> None:
        tokens = reference([1], 0, 0, 200)
        stop = next(chr(t) for i, t in enumerate(tokens) if 40 < t < 127 and i > 60)
        expected = text_of(tokens).split(stop)[0]
        answer = self.complete(client, [1], max_tokens=200, stop=stop, stream=stream)
        if stream:
            choices = [e["choices"][0] for e in events(answer)[:-1]]
        else:
            choices = answer.json()["choices"]
        assert "".join(c["text"] for c in choices) == expected
        assert choices[-1]["finish_reason"] == "stop"

    def test_a_stream_never_splits_a_character(self, slow: Server) -> None:
        body = {"model": "sim", "prompt": [1], "seed": 9, "max_tokens": 40}
        whole = httpx.post(slow.url + "/v1/completions", json=body, timeout=30).json()
        answer = httpx.post(slow.url + "/v1/completions", json={**body, "stream": True}, timeout=30)
        texts = [e["choices"][0]["text"] for e in events(answer)[:-1]]
        assert len(texts) > 10
        assert "".join(texts) == whole["choices"][0]["text"]

    def test_no_line_of_a_stream_ends_inside_of_its_text(self, client: httpx.Client) -> None:
        tokens = reference([1], 0, 0, 300, seed=178)
        assert "\x85" in text_of(tokens)
        answer = self.complete(client, [1], max_tokens=300, seed=178, stream=True)
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
        texts = [json.loads(line)["choices"][0]["text"] for line in lines[:-1]]
        assert lines[-1] == "[DONE]"
        assert "".join(texts) == text_of(tokens)

    def test_special_tokens_are_no_text(self) -> None:
        with Server("--sim-eos-rate", "0.3") as ending:
            body = {"model": "sim", "prompt": [1], "max_tokens": 500, "return_token_ids": True}
            choice = httpx.post(ending.url + "/v1/completions", json=body).json()["choices"][0]
        assert choice["finish_reason"] == "stop"
        assert choice["token_ids"][-1] == 256
        assert "<|" not in choice["text"]

    @pytest.mark.parametrize(
        "model", ["other", f"policy@{UNKNOWN}", UNKNOWN, "sim@sha256:ab", "SIM"]
    )
    def test_an_unknown_model_is_refused_by_name(self, client: httpx.Client, model: str) -> None:
        answer = self.chat(client, model=model)
        assert answer.status_code == 404
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("adapter_missing", "model")
        assert error["type"] == "invalid_request_error"

    @pytest.mark.parametrize(
        ("fields", "param", "code"),
        [
            pytest.param({"model": None}, "model", "invalid_request", id="no model"),
            pytest.param({"messages": None}, "messages", "invalid_request", id="no messages"),
            pytest.param({"temperture": 1}, "temperture", "invalid_request", id="unknown field"),
            pytest.param({"temperature": "hot"}, "temperature", "invalid_request", id="no number"),
            pytest.param({"stream": 1}, "stream", "invalid_request", id="stream is no boolean"),
            pytest.param({"top_logprobs": 2}, "top_logprobs", "invalid_request", id="top alone"),
            pytest.param({"n": 5000}, "n", "invalid_request", id="too many choices"),
            pytest.param({"n": 0}, "n", "invalid_request", id="no choices"),
            pytest.param({"temperature": -1}, "temperature", "invalid_request", id="negative"),
            pytest.param({"messages": []}, "messages", "invalid_request", id="empty messages"),
            pytest.param(
                {"messages": [{"role": "user", "content": "x" * 32768}]},
                "messages",
                "invalid_request",
                id="messages too long",
            ),
            pytest.param({"tools": [{}]}, "tools", "unsupported", id="tools"),
            pytest.param(
                {"response_format": {"type": "json_object"}},
                "response_format",
                "unsupported",
                id="structured output",
            ),
        ],
    )
    def test_what_is_not_served_is_refused_by_name(
        self, client: httpx.Client, fields: dict[str, Any], param: str, code: str
    ) -> None:
        answer = self.chat(client, **fields)
        assert answer.status_code == 400
        assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)

    @pytest.mark.parametrize(
        "prompt", [None, "", [], [[]], [None], {}, 5, [1, "a"], [["a"]], [True]]
    )
    def test_a_prompt_that_is_none_is_refused(self, client: httpx.Client, prompt: Any) -> None:
        answer = self.complete(client, prompt)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("invalid_request", "prompt")

    @pytest.mark.parametrize(
        ("prompt", "fields", "message"),
        [
            pytest.param(
                [5, 300],
                {},
                "prompt: 300 at position 1 is outside the vocabulary (0 to 258)",
                id="an id outside the vocabulary",
            ),
            pytest.param([-1], {}, "prompt: -1 at position 0 is outside", id="a negative id"),
            pytest.param([1] * 32768, {}, "prompt: the prompt has 32768", id="too many ids"),
            pytest.param("x" * 32768, {}, "prompt: the prompt has 32768", id="a text too long"),
            pytest.param([[1], []], {}, "prompt[1]: the prompt is empty", id="one of several"),
            pytest.param(["a", [259]], {}, "prompt[1]: 259 at position 0", id="ids beside a text"),
            pytest.param([1], {"n": 0}, "n: must be an integer between 1 and", id="no choices"),
            pytest.param([1], {"temperature": -1}, "temperature: must be", id="negative"),
        ],
    )
    def test_an_error_names_the_field_that_the_client_sent(
        self, client: httpx.Client, prompt: Any, fields: dict[str, Any], message: str
    ) -> None:
        answer = self.complete(client, prompt, **fields)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["message"].startswith(message)
        assert "input_ids" not in error["message"]
        assert error["param"] == message.split(":")[0].partition("[")[0]

    def test_a_reader_that_leaves_a_stream_ends_its_sequence(self, slow: Server) -> None:
        body = {"model": "sim", "prompt": [1], "max_tokens": 5000, "stream": True}
        with httpx.stream("POST", slow.url + "/v1/completions", json=body) as answer:
            # Kept: the response closes with the iterator.
            lines = answer.iter_lines()
            next(lines)
            assert running(slow) == 1
        wait(lambda: running(slow) == 0)
