"""vLLM that dies is found at once; vLLM that hangs, by the step watchdog. Nothing of it stays."""

import os
import signal
from pathlib import Path

import pytest
from tests.torch_harness import ask, prompt_of
from tests.vllm_harness import VllmHarness
from tests.vllm_served import Served, ask_in_vain, wait_for_end

from sampler_api.errors import EngineDead
from sampler_client import RemoteSampler


@pytest.mark.parametrize("is_busy", [False, True])
def test_an_engine_whose_worker_is_killed_says_so_at_once(is_busy: bool) -> None:
    with VllmHarness(max_adapters=0) as harness:
        processes = harness.engine._started().processes
        assert processes
        request = ask(prompt_of(10), max_tokens=2000, ignore_eos=True)
        if is_busy:
            harness.engine.submit([request])
            harness.wait(lambda: harness.has_started(request))
        os.kill(processes[-1], signal.SIGKILL)
        harness.wait(lambda: 0 in harness.found)
        assert isinstance(harness.found[0].error, EngineDead)
        if is_busy:
            assert isinstance(harness.found[request.key].error, EngineDead)
        with pytest.raises(EngineDead):
            harness.engine.submit([ask(prompt_of(10))])
    wait_for_end(processes)


def test_a_wedged_worker_ends_the_server_with_a_word_and_leaves_no_process(tmp_path: Path) -> None:
    served = Served(tmp_path, "--stall-seconds=10", "--max-adapters=0")
    with RemoteSampler(served.server.url) as sampler:
        sampler.sample({"input_ids": prompt_of(10)}, {"max_tokens": 4})
        processes = served.processes()
        os.kill(served.worker(), signal.SIGSTOP)
        asking = ask_in_vain(sampler, prompt_of(10))
        assert served.server.wait(200) == 70
    asking.join()
    assert "engine stalled: no step for" in served.log.read_text()
    assert served.log.read_text().count("\n") == 1
    wait_for_end(processes)


def test_a_killed_worker_ends_the_server_with_a_word(tmp_path: Path) -> None:
    served = Served(tmp_path, "--max-adapters=0")
    processes = served.processes()
    os.kill(served.worker(), signal.SIGKILL)
    assert served.server.wait(100) == 1
    assert "the vLLM engine has died" in served.log.read_text()
    wait_for_end(processes)


def test_a_killed_server_leaves_no_process(tmp_path: Path) -> None:
    served = Served(tmp_path, "--max-adapters=0")
    processes = served.processes()
    process = served.server._process
    assert process is not None
    process.kill()
    served.server.wait(20)
    wait_for_end(processes)
