"""The JSON and OpenAI routes over real HTTP, in front of the sim engine."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.servers import Server

from sampler_client import RemoteSampler
from sampler_core.seeds import child_seed
from sampler_server.engines.sim import base_digest
from sampler_server.engines.sim.tokens import sim_sequence

BASE = base_digest()
UNKNOWN = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as opened:
        yield opened


@pytest.fixture(scope="module")
def slow() -> Iterator[Server]:
    with Server("--sim-decode-rate", "50", "--drain-seconds", "0.5") as started:
        yield started


def sample(client: httpx.Client, inputs: Any, **fields: Any) -> httpx.Response:
    return client.post("/v1/sample", json={"inputs": inputs, **fields})


def reference(prompt: list[int], index: int, child: int, length: int, seed: int = 5) -> list[int]:
    return sim_sequence(prompt, child_seed(seed, index, child), BASE, None, length)[0]


def text_of(tokens: list[int]) -> str:
    return bytes(tokens).decode("utf-8", "replace")


def events(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def running(server: Server) -> int:
    load = server.status()["load"]
    return int(load["running"] + load["waiting"])


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


def wait(condition: Any) -> None:
    """Ask again until it holds; each asking takes a request's time."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline


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


def test_without_a_token_nobody_samples(tmp_path: Any) -> None:
    (tmp_path / "tokens").write_text("me:sample:secret\n")
    with Server("--token-file", str(tmp_path / "tokens")) as closed:
        for path in ("/v1/sample", "/v1/completions", "/v1/chat/completions"):
            answer = httpx.post(closed.url + path, json={})
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
        answer = httpx.post(
            closed.url + "/v1/sample",
            json={"inputs": {"input_ids": [1]}, "sampling_params": {"max_tokens": 1}},
            headers={"authorization": "Bearer secret"},
        )
        assert answer.status_code == 200


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
names = st.sampled_from(
    [
        *("inputs", "sampling_params", "adapter", "base", "n", "model", "messages", "prompt"),
        *("stream", "stream_options", "logprobs", "top_logprobs", "stop", "seed", "temperature"),
        *("logit_bias", "bad_words", "tools", "echo", "return_token_ids"),
    ]
)
params = st.dictionaries(
    st.sampled_from(
        [
            *("max_tokens", "n", "seed", "stop", "temperature", "top_k", "top_p", "min_p"),
            *("logprobs", "prompt_logprobs", "min_tokens", "ignore_eos", "stop_token_ids"),
            *("logit_bias", "bad_words", "logprobs_mode", "repetition_penalty"),
        ]
    ),
    anything,
    max_size=3,
)
items = st.fixed_dictionaries(
    {},
    optional={
        "input_ids": anything | st.lists(st.integers(-1, 260), max_size=4),
        "messages": anything
        | st.lists(st.fixed_dictionaries({"role": anything, "content": anything}), max_size=2),
        "tools": anything,
        "prompt": anything,
    },
)
# Every request that is accepted ends soon: without max_tokens it would run to the context's end.
bounded = params.map(lambda values: {"max_tokens": 3, **values}).filter(
    lambda values: isinstance(values["max_tokens"], int) and values["max_tokens"] <= 300
)
bodies = st.one_of(
    st.binary(max_size=40),
    anything.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {"inputs": items | st.lists(items, max_size=3) | anything, "sampling_params": bounded},
        optional={"n": anything, "adapter": anything, "base": anything},
    ).map(lambda value: json.dumps(value).encode()),
    st.dictionaries(names, anything, max_size=5).map(
        lambda value: json.dumps({"model": "sim", "max_tokens": 3, **value}).encode()
    ),
)


@pytest.mark.timeout(120)  # some hundred requests, one after another
def test_no_body_makes_the_server_fail_or_stop_serving() -> None:
    with Server() as server, httpx.Client(base_url=server.url, timeout=30) as client:

        @settings(max_examples=300, deadline=None)
        @given(
            path=st.sampled_from(["/v1/sample", "/v1/completions", "/v1/chat/completions"]),
            body=bodies,
        )
        def post(path: str, body: bytes) -> None:
            answer = client.post(path, content=body, headers={"content-type": "application/json"})
            assert answer.status_code < 500, answer.text
            if answer.status_code != 200:
                assert answer.json()["error"]["message"]

        post()
        answer = sample(client, {"input_ids": [1]}, sampling_params={"max_tokens": 2, "seed": 5})
        assert answer.json()["responses"][0]["sequences"][0]["tokens"] == reference([1], 0, 0, 2)
        wait(lambda: running(server) == 0)
        assert server.stop() == 0
    assert "Traceback" not in server.log
