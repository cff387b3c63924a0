"""Bodies of any kind, and requests without a token, on all routes."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.http_calls import reference, running, sample, wait
from tests.servers import Server


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
    with Server(renders=True) as server, httpx.Client(base_url=server.url, timeout=30) as client:

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
