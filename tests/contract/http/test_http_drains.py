"""What a drain does to plain HTTP requests: those that run, and those that come late."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
from tests.http_calls import sample
from tests.proxy import wait_until
from tests.servers import Server


def lines_until_the_end(leaving: Server, max_tokens: int) -> list[str]:
    """Of a stream during which the server is told to leave."""
    body = {"model": "sim", "prompt": [1], "max_tokens": max_tokens, "stream": True}
    with httpx.stream("POST", leaving.url + "/v1/completions", json=body, timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        leaving.send(signal.SIGTERM)
        return [line for line in lines if line]


def test_a_drain_ends_a_stream_that_does_not_finish_with_an_error_event() -> None:
    with Server("--sim-decode-rate", "50", "--drain-seconds", "0.5") as leaving:
        last = lines_until_the_end(leaving, 20_000)[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "draining"
        assert leaving.stop() == 0


def test_a_drain_gives_back_what_there_is_of_a_sequence_that_does_not_finish() -> None:
    with (
        Server("--sim-decode-rate", "50", "--drain-seconds", "0.5") as leaving,
        httpx.Client(base_url=leaving.url, timeout=30) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        params = {"max_tokens": 20_000}
        asked = pool.submit(sample, client, [{"input_ids": [1]}], sampling_params=params)
        wait_until(lambda: leaving.status()["load"]["kv_used"] > 8, "it has begun")
        leaving.send(signal.SIGTERM)
        (response,) = asked.result().json()["responses"]
    (sequence,) = response["sequences"]
    assert (sequence["stop_reason"], sequence["error"]["code"]) == ("error", "draining")
    assert 0 < len(sequence["tokens"]) == response["usage"]["completion_tokens"]


def test_a_drain_lets_a_short_request_finish() -> None:
    with Server("--sim-decode-rate", "50") as leaving:
        assert lines_until_the_end(leaving, 60)[-1] == "data: [DONE]"


def test_a_request_that_comes_late_is_served_while_the_replica_still_listens() -> None:
    options = ("--sim-decode-rate", "50", "--listen-seconds", "2")
    with Server(*options) as leaving, httpx.Client(base_url=leaving.url, timeout=30) as client:
        body = {"model": "sim", "prompt": [1], "max_tokens": 2000, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as running:
            next(running.iter_lines())
            leaving.send(signal.SIGTERM)
            wait_until(lambda: leaving.manage.get("/readyz")[0] == 503, "the drain has begun")
            late = [{"input_ids": [1]}]
            params = {"max_tokens": 5}
            answers = [
                client.post("/v1/completions", json={**body, "max_tokens": 5, "stream": False}),
                sample(client, late, sampling_params=params),
            ]
            assert [answer.status_code for answer in answers] == [200, 200]

            def is_refused() -> bool:
                try:
                    answer = sample(client, late, sampling_params=params)
                except httpx.TransportError:
                    return True  # it has closed the connection, just then
                return answer.status_code == 503 and answer.json()["error"]["code"] == "draining"

            wait_until(is_refused, "nobody can have missed it any more")
