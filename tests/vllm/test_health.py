"""vLLM that dies is found at once; vLLM that hangs, by the step watchdog. Nothing of it stays."""

import os
import signal
import threading
from pathlib import Path

import pytest
from tests.servers import Server
from tests.tiny_models import tiny_model
from tests.torch_harness import ask, prompt_of
from tests.vllm_harness import VllmHarness

from sampler_api.errors import EngineDead, SamplerClosed
from sampler_client import RemoteSampler
from sampler_server.engines.vllm.processes import descendants


def is_alive(pid: int) -> bool:
    """It runs, or is stopped; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_end(pids: list[int]) -> None:
    """A killed process is gone once the kernel has taken its memory back, a GPU's too."""
    while any(map(is_alive, pids)):
        threading.Event().wait(0.1)


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


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


class Served:
    """A server of the tiny model, with a place for its last word."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.log = folder / "termination-log"
        os.environ["SAMPLER_TERMINATION_LOG"] = str(self.log)
        try:
            self.server = Server(
                f"--model={tiny_model()}",
                "--dtype=float32",
                "--max-kv-tokens=65536",
                "--max-num-seqs=8",
                *options,
                engine="vllm",
            )
            self.server.start()
        finally:
            del os.environ["SAMPLER_TERMINATION_LOG"]

    def worker(self) -> int:
        """The process that computes; on one GPU the engine's core does."""
        return self.processes()[-1]

    def processes(self) -> list[int]:
        process = self.server._process
        assert process is not None
        return [pid for pid in descendants(process.pid) if "VLLM" in command_of(pid)]


def test_a_wedged_worker_ends_the_server_with_a_word_and_leaves_no_process(tmp_path: Path) -> None:
    served = Served(tmp_path, "--stall-seconds=10", "--max-adapters=0")
    with RemoteSampler(served.server.url) as sampler:
        ask_for = ({"input_ids": prompt_of(10)}, {"max_tokens": 4})
        sampler.sample(*ask_for)
        processes = served.processes()
        os.kill(served.worker(), signal.SIGSTOP)

        def ask_in_vain() -> None:
            # No other replica is there: the call waits until the client is closed.
            with pytest.raises(SamplerClosed):
                sampler.sample(*ask_for)

        asking = threading.Thread(target=ask_in_vain)
        asking.start()
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
