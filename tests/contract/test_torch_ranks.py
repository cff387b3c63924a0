"""The torch engine on two ranks: what it computes, and that its processes live and end together.

Every engine here is two processes that import torch and transformers, so that only what no other
test holds runs each time; the rest, and all of the conformance tests, with ``make test-slow``.
"""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.processes import is_alive  # noqa: E402
from tests.proxy import wait_until  # noqa: E402
from tests.reference import TOLERANCE, Reference, log_softmax, reference  # noqa: E402
from tests.servers import Server  # noqa: E402
from tests.tiny_adapters import tiny_adapter  # noqa: E402
from tests.tiny_models import cache_root, tiny_model  # noqa: E402
from tests.torch_harness import Collected, TorchHarness, ask, prompt_of  # noqa: E402
from tests.updatable import checked  # noqa: E402

from sampler_api.errors import (  # noqa: E402
    AdapterCapacity,
    AdapterInvalid,
    EngineDead,
    EngineFailed,
    ModelInvalid,
)
from sampler_client import RemoteSampler, SamplingParams  # noqa: E402
from sampler_server import TorchSampler  # noqa: E402
from sampler_server.engines.base import EngineRequest  # noqa: E402
from sampler_server.engines.torch.ranks import lead, processes  # noqa: E402
from sampler_server.engines.torch.ranks.orders import Replace, StageWeights  # noqa: E402

# Two processes import torch and transformers.
pytestmark = pytest.mark.timeout(120)

SMALL: dict[str, Any] = {"slots": 8, "kv_tokens": 4096, "prefill_tokens": 48, "max_adapters": 3}
LONG: dict[str, Any] = {"max_tokens": 1500, "ignore_eos": True}
END_SECONDS = 30


def pids_of(harness: TorchHarness) -> list[int]:
    ranks = harness.engine._ranks
    assert ranks is not None
    return ranks.processes.pids


@pytest.fixture(scope="module")
def shared() -> Iterator[TorchHarness]:
    """An engine that stays: rows grow, move and are taken from others in it; prompts are read in
    pieces; three adapters fit."""
    harness = TorchHarness(**SMALL, tensor_parallel_size=2)
    yield harness
    harness.engine.close()


@pytest.fixture
def two() -> Iterator[TorchHarness]:
    """An engine that the test may kill."""
    harness = TorchHarness(slots=8, tensor_parallel_size=2)
    pids = pids_of(harness)
    yield harness
    harness.engine.close()
    assert not any(map(is_alive, pids))


def assert_right(requests: list[EngineRequest], found: list[Collected], whole: Reference) -> None:
    """Logprobs are those of plain forward passes of the whole model, with PEFT for adapters."""
    for request, one in zip(requests, found, strict=True):
        assert one.finish == "length"
        ids = [*request.prompt_ids.tolist(), *one.tokens]
        logits = whole.logits(ids, request.adapter)
        rows = np.stack([log_softmax(row) for row in logits[:-1]])[-len(one.tokens) :]
        drawn = rows[np.arange(len(rows)), one.tokens]
        assert np.abs(drawn - one.logprobs).max() <= TOLERANCE


def check_a_mixed_batch(harness: TorchHarness, architecture: Any) -> None:
    names = [None, "a1", "a2", "lora_bias"]
    for name in names[1:]:
        assert name is not None
        harness.engine.load_adapter(name, tiny_adapter(name, architecture))
    requests = [
        ask(
            prompt_of(10 + 37 * i, i),
            adapter=names[i % 4],
            seed=i,
            max_tokens=20 + 30 * (i % 5),
            ignore_eos=True,
        )
        for i in range(16)
    ]
    found = harness.run(*requests)
    assert_right(requests, found, reference(architecture))
    # Draws do not depend on what else runs, nor on where the model is.
    alone = ask(prompt_of(10 + 37 * 5, 5), adapter="a1", seed=5, max_tokens=20, ignore_eos=True)
    (again,) = harness.run(alone)
    assert again.tokens == found[5].tokens[:20]
    scored = ask(prompt_of(300, 1), adapter="a2", max_tokens=0, prompt_logprobs=0, scores=True)
    (one,) = harness.run(scored)
    scores = one.deltas[-1].prompt
    assert scores is not None
    ids = scored.prompt_ids.tolist()
    expected = reference(architecture).prompt_logprobs(ids, "a2")[np.arange(299), ids[1:]]
    given = np.frombuffer(scores.logprobs, "<f4")[1:]
    assert np.abs(given - expected).max() <= TOLERANCE
    for name in names[1:]:
        assert name is not None
        harness.engine.unload_adapter(name)


# PEFT, which the reference is made of, warns that such a bias cannot be merged.
@pytest.mark.filterwarnings("ignore:.lora_bias=True")
def test_a_mixed_batch_on_two_ranks_is_that_of_the_whole_model(shared: TorchHarness) -> None:
    check_a_mixed_batch(shared, "qwen3")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.lora_bias=True")
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_so_it_is_of_other_models(architecture: Any) -> None:
    harness = TorchHarness(tiny_model(architecture), **SMALL, tensor_parallel_size=2)
    try:
        check_a_mixed_batch(harness, architecture)
    finally:
        harness.engine.close()


def test_adapters_are_on_all_ranks_or_on_none(
    shared: TorchHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = shared.engine
    with monkeypatch.context() as patched:
        # The other rank cannot read what it is given.
        patched.setattr(lead, "save", lambda tensors: b"nothing")
        with pytest.raises(AdapterInvalid, match="rank 1 of 2: "):
            engine.load_adapter("a1", tiny_adapter("a1"))
    (refused,) = shared.run(ask([5, 6, 7], adapter="a1"))
    assert refused.finish == "error"
    engine.load_adapter("a1", tiny_adapter("a1"))
    # A digest that is held already is no other adapter.
    engine.load_adapter("a1", tiny_adapter("a1"))
    running = ask(prompt_of(5), adapter="a1", **LONG)
    engine.submit([running])
    shared.wait(lambda: shared.has_started(running))
    with pytest.raises(AdapterCapacity):
        engine.unload_adapter("a1")
    engine.load_adapter("a2", tiny_adapter("a2"))
    engine.load_adapter("a3", tiny_adapter("a3"))
    with pytest.raises(AdapterCapacity):
        engine.load_adapter("rank_64", tiny_adapter("rank_64"))
    engine.cancel([running.key])
    shared.wait(lambda: shared.has_finished(running))
    engine.unload_adapter("a1")
    engine.load_adapter("rank_64", tiny_adapter("rank_64"))
    names = [None, "a2", "rank_64", "a3"]
    requests = [ask(prompt_of(30, i), adapter=n, ignore_eos=True) for i, n in enumerate(names)]
    assert_right(requests, shared.run(*requests), reference())
    for name in ("a2", "rank_64", "a3"):
        engine.unload_adapter(name)


def test_new_weights_serve_on_all_ranks_or_on_none(
    shared: TorchHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = shared.engine
    engine.load_adapter("a1", tiny_adapter("a1"))

    def check(whole: Reference) -> None:
        names = [None, "a1", None, "a1"]
        requests = [
            ask(prompt_of(30 + i, i), adapter=name, ignore_eos=True) for i, name in enumerate(names)
        ]
        assert_right(requests, shared.run(*requests), whole)

    with monkeypatch.context() as patched:
        # The other rank finds nothing where it is sent.
        patched.setattr(lead, "StageWeights", lambda stage, _: StageWeights(stage, "/nowhere"))
        with pytest.raises(EngineFailed, match="cannot be loaded: rank 1 of 2: "):
            engine.update_weights(checked(1))
    check(reference())
    adapters = {"a1": tiny_adapter("a1")}
    for step in (1, 2, 0):
        engine.update_weights(checked(step))
        assert engine.info.base_digest == checked(step).digest
        check(Reference(tiny_model(step=step), adapters))
    engine.unload_adapter("a1")


@pytest.mark.slow
def test_a_rank_that_has_not_the_new_weights_ends_the_engine(
    two: TorchHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lead, "Replace", lambda stage: Replace(stage + 1))
    # Whether rank 0 hears of it before it is through is chance.
    with suppress(EngineDead):
        two.engine.update_weights(checked(1))
    two.wait(lambda: 0 in two.found)
    assert isinstance(two.found[0].error, EngineDead)
    with pytest.raises(EngineDead, match="rank 1 of 2 failed: KeyError"):
        two.engine.submit([ask([5, 6, 7])])


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_engine_at_once(two: TorchHarness) -> None:
    os.kill(pids_of(two)[0], signal.SIGKILL)
    two.wait(lambda: 0 in two.found)
    error = two.found[0].error
    assert isinstance(error, EngineDead)
    assert error.message == "the engine has died: rank 1 of 2 was ended by SIGKILL"
    with pytest.raises(EngineDead, match="rank 1 of 2 was ended by SIGKILL"):
        two.engine.submit([ask(prompt_of(10))])
    with pytest.raises(EngineDead, match="rank 1 of 2"):
        two.engine.load_adapter("a1", tiny_adapter("a1"))


def test_a_rank_that_hangs_ends_the_engine_also_while_it_idles(
    two: TorchHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_PING_SECONDS", 0.02)
    os.kill(pids_of(two)[0], signal.SIGSTOP)
    two.wait(lambda: 0 in two.found)
    error = two.found[0].error
    assert isinstance(error, EngineDead)
    assert "rank 1 of 2 has not answered for" in error.message


@pytest.mark.slow
def test_closing_an_engine_whose_rank_hangs_kills_the_rank(
    two: TorchHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sampler_server.engines.torch.engine._GRACE_SECONDS", 0.2)
    monkeypatch.setattr(processes, "_END_SECONDS", 0.2)
    monkeypatch.setattr(processes, "_SILENT_PINGS", 1 << 30)
    request = ask(prompt_of(10), **LONG)
    two.engine.submit([request])
    two.wait(lambda: two.has_started(request))
    pids = pids_of(two)
    os.kill(pids[0], signal.SIGSTOP)
    two.engine.close()
    assert not any(map(is_alive, pids))


@pytest.mark.slow
def test_an_engine_that_is_abandoned_leaves_no_rank(two: TorchHarness) -> None:
    pids = pids_of(two)
    os.kill(pids[0], signal.SIGSTOP)
    two.engine.abandon()
    wait_for_end(pids)


def server(*options: str) -> Server:
    return Server(
        f"--model={tiny_model()}",
        "--dtype=float32",
        "--device=cpu",
        "--tensor-parallel-size=2",
        f"--adapter-root={cache_root()}",
        *options,
        engine="torch",
    )


def ranks_of(server: Server) -> list[int]:
    """The processes below a server."""
    pid = server.announced["pid"]
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(word) for task in tasks for word in task.read_text().split()]
    assert found
    return found


def wait_for_end(pids: list[int]) -> None:
    wait_until(lambda: not any(map(is_alive, pids)), "no rank is left")


@pytest.fixture
def last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The termination log of servers that the test starts."""
    path = tmp_path / "termination-log"
    monkeypatch.setenv("SAMPLER_TERMINATION_LOG", str(path))
    return path


def test_a_server_whose_rank_is_killed_ends_with_one_line(last_word: Path) -> None:
    with server() as served, ThreadPoolExecutor(1) as pool:
        ranks = ranks_of(served)
        with RemoteSampler(served.url) as sampler:
            params = SamplingParams(max_tokens=1500, ignore_eos=True)
            asked = pool.submit(sampler.sample, {"input_ids": [5, 6, 7]}, params)
            wait_until(lambda: served.status()["load"]["running"] == 1, "it generates")
            os.kill(ranks[0], signal.SIGKILL)
            assert served.wait(END_SECONDS) == 1
        assert asked.exception() is not None
    line = "EngineDead: the engine has died: rank 1 of 2 was ended by SIGKILL\n"
    assert last_word.read_text() == line
    assert served.log.endswith(line)
    wait_for_end(ranks)


def test_a_server_that_is_killed_leaves_no_rank() -> None:
    with server() as served:
        ranks = ranks_of(served)
        # Not its group: only the server itself.
        os.kill(served.announced["pid"], signal.SIGKILL)
        assert served.wait(END_SECONDS) == -signal.SIGKILL
    wait_for_end(ranks)


@pytest.mark.slow
def test_a_drained_server_leaves_no_rank_and_ranks_do_not_end_before(last_word: Path) -> None:
    with server("--drain-seconds=0") as served:
        ranks = ranks_of(served)
        # As a terminal does: to all processes of the group.
        os.killpg(served.announced["pid"], signal.SIGINT)
        assert served.wait(END_SECONDS) == 0
    wait_for_end(ranks)
    assert not last_word.exists()


@pytest.mark.slow
def test_a_server_that_cannot_split_its_model_says_why(last_word: Path) -> None:
    refused = server("--tensor-parallel-size=3")
    with pytest.raises(RuntimeError, match="ended with 1"):
        refused.__enter__()
    assert last_word.read_text() == (
        "ModelInvalid: tensorParallelSize 3: num_attention_heads is 2, which cannot be divided by 3"
        "\n"
    )


def a_model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"model_id": a_model}, "a ready model is in one process", id="a ready model"),
        pytest.param({"model_cls": object}, "which have no model_cls", id="a class of one process"),
        pytest.param({"device": "mps"}, "on 'cpu' or 'cuda', not on 'mps'", id="a Mac's device"),
        pytest.param({"device": "cuda:1"}, "not on 'cuda:1'", id="one card"),
        pytest.param({"tensor_parallel_size": 0}, "at least", id="no rank"),
        pytest.param(
            {"tensor_parallel_size": 5},
            "num_attention_heads is 2, which cannot be divided by 5",
            id="heads that do not divide",
        ),
    ],
)
def test_what_several_ranks_cannot_do_is_refused_before_they_start(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lead, "Processes", None)
    given = {"model_id": str(tiny_model()), "tensor_parallel_size": 2, "device": "cpu", **options}
    if callable(given["model_id"]):
        given["model_id"] = given["model_id"]()
    with pytest.raises(ModelInvalid, match=f"^tensorParallelSize .*{message}"):
        TorchSampler(**given)


def test_a_rank_that_cannot_load_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lead, "_device_of", lambda kind, rank: "cuda:99" if rank else "cpu")
    with pytest.raises(ModelInvalid, match="rank 1 of 2 failed: device: 'cuda:99' cannot be used"):
        TorchHarness(tensor_parallel_size=2)
