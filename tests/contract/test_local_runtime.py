"""A fleet of this machine from its file to its end, with the commands that people use."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.fake_hub import FakeHub
from tests.processes import is_alive
from tests.proxy import wait_until
from tests.raw_adapters import write_adapter

from sampler_client import RemoteSampler, SamplingParams
from sampler_core.adapters import snapshot_adapter
from sampler_core.seeds import child_seed
from sampler_operator.local.folders import Folder
from sampler_operator.local.state import FleetState, PodLine, read_state
from sampler_server.engines.sim import base_digest
from sampler_server.engines.sim.tokens import sim_sequence

pytestmark = pytest.mark.long

SEED: Final = 5
TOKENS: Final = 60
PROMPTS: Final = [[number] for number in range(1, 17)]
NAME: Final = "policy"


class Fleet:
    """A folder for state, a file, and the command."""

    def __init__(self, folder: Path) -> None:
        self.state_dir = folder / "state"
        self.folder = Folder(self.state_dir / NAME)
        self.file = folder / "sampler.yaml"
        self.environment = os.environ | {"SAMPLER_STATE_DIR": str(self.state_dir)}

    def write(self, **changes: Any) -> None:
        """The file: two sim replicas, but for ``changes`` of the spec."""
        spec = {
            "model": {"uri": "sim://policy"},
            "engine": {"sim": {"decodeRate": 40, "maxNumSeqs": 8}},
            "replicas": 2,
            "rollout": {"drainSeconds": 5},
        }
        sd = {
            "apiVersion": "sampler.dev/v1alpha1",
            "kind": "SamplerDeployment",
            "metadata": {"name": NAME},
            "spec": spec | changes,
        }
        self.file.write_text(yaml.safe_dump(sd))

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "sampler_cli.main", *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.words(*words), env=self.environment, capture_output=True, text=True, check=False
        )

    def up(self, *options: str) -> str:
        """``sampler up --detach``; what it prints."""
        done = self.run("up", "--file", str(self.file), "--detach", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def state(self) -> FleetState:
        found = read_state(self.folder)
        assert found is not None
        return found

    @property
    def pods(self) -> dict[str, PodLine]:
        return {pod.name: pod for pod in self.state.pods}

    def sampler(self, monkeypatch: pytest.MonkeyPatch) -> RemoteSampler:
        monkeypatch.setenv("SAMPLER_STATE_DIR", str(self.state_dir))
        return RemoteSampler(f"local://{NAME}", tick=0.2)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    made.write()
    try:
        yield made
    finally:
        made.run("down", NAME, "--now")


def device_of(pid: int) -> str:
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return next(v.partition("=")[2] for v in variables if v.startswith("CUDA_VISIBLE_DEVICES="))


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Stream:
    """Calls of ``sample`` one after the other, each compared with what an undisturbed engine
    says."""

    def __init__(self, sampler: RemoteSampler) -> None:
        self._sampler = sampler
        self._is_over = threading.Event()
        self.sequences = 0
        self.moved = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        params = SamplingParams(max_tokens=TOKENS, seed=SEED)
        inputs = [{"input_ids": prompt} for prompt in PROMPTS]
        expected = [
            sim_sequence(prompt, child_seed(SEED, i, 0), base_digest(NAME), None, TOKENS)[0]
            for i, prompt in enumerate(PROMPTS)
        ]
        while not self._is_over.is_set():
            answer = self._sampler.sample(inputs, params)
            for sequence, tokens in zip(answer.sequences, expected, strict=True):
                self.sequences += 1
                self.moved += len({segment.replica for segment in sequence.segments}) > 1
                if sequence.tokens != tokens:
                    self.wrong.append(f"{sequence.stop_reason}: {sequence.error}")

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join(30)
        assert not thread.is_alive()


def test_a_change_is_rolled_out_under_load_and_nothing_is_left_at_the_end(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.up()
    before = fleet.pods
    assert all(pod.ready for pod in before.values())
    with fleet.sampler(monkeypatch) as sampler:
        stream = Stream(sampler)
        with stream.running():
            wait_until(lambda: stream.sequences > 0, "the first samples")
            fleet.write(engine={"sim": {"decodeRate": 41, "maxNumSeqs": 8}})
            told = fleet.up()
            done = stream.sequences
            wait_until(lambda: stream.sequences > done, "more samples")
    assert stream.wrong == []
    assert stream.moved > 0
    assert "generation 2 of its spec" in told
    after = fleet.pods
    assert set(before).isdisjoint(after)
    assert len(after) == 2
    runtime = fleet.folder.holder()

    done_status = fleet.run("status", NAME)
    assert done_status.returncode == 0, done_status.stderr
    table = done_status.stdout.splitlines()
    assert table[0].split()[:4] == ["NAME", "READY", "REPLICAS", "ENGINE"]
    assert table[1].split()[:4] == [NAME, "True", "2/2", "sim"]
    assert all(name in done_status.stdout for name in after)

    ended = fleet.run("down", NAME)
    assert ended.returncode == 0, ended.stderr
    processes = [runtime, *(pod.pid for pod in (*before.values(), *after.values()))]
    wait_until(lambda: not any(map(is_alive, processes)), "the end of all processes")
    assert list(fleet.folder.pods.iterdir()) == []
    assert fleet.run("status", NAME).returncode == 1


def test_a_replica_that_is_killed_starts_again_and_no_sample_is_lost(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.up()
    victim = next(iter(fleet.pods.values()))
    with fleet.sampler(monkeypatch) as sampler:
        stream = Stream(sampler)
        with stream.running():
            wait_until(lambda: stream.sequences > 0, "the first samples")
            os.kill(victim.pid, signal.SIGKILL)
            wait_until(lambda: fleet.pods[victim.name].restarts == 1, "a restart")
            wait_until(lambda: fleet.pods[victim.name].ready, "readiness after it")
            done = stream.sequences
            wait_until(lambda: stream.sequences > done, "more samples")
    assert stream.wrong == []
    again = fleet.pods[victim.name]
    assert again.urls == victim.urls
    assert again.pid != victim.pid


def test_declared_adapters_reach_running_pods_without_a_restart(
    fleet: Fleet, tmp_path: Path
) -> None:
    digest = snapshot_adapter(write_adapter(tmp_path / "loras" / "a")).digest
    volume = {"name": "v", "mountPath": "/adapters"}
    volume |= {"persistentVolumeClaim": {"claimName": "loras"}}  # type: ignore[dict-item]
    fleet.write(replicas=1, lora={"volumes": [volume]})
    refused = fleet.run("up", "--file", str(fleet.file), "--detach")
    assert refused.returncode == 1
    assert "--volume loras=DIRECTORY" in refused.stderr
    fleet.up("--volume", f"loras={tmp_path / 'loras'}")
    before = fleet.pods
    adapters = [{"name": "a", "path": "/adapters/a"}]
    fleet.write(replicas=1, lora={"volumes": [volume], "adapters": adapters})
    fleet.up()
    wait_until(
        lambda: fleet.state.condition("AdaptersReady").get("reason") == "AdaptersHeld",
        "the adapter",
    )
    held = fleet.state.sd["status"]["adapters"]
    assert held == [{"name": "a", "digest": digest, "replicas": 1}]
    assert {name: pod.pid for name, pod in fleet.pods.items()} == {
        name: pod.pid for name, pod in before.items()
    }


@pytest.mark.skipif(not find_spec("torch"), reason="needs torch")
def test_a_model_of_a_hub_is_fetched_once_for_all_replicas_and_runs(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.tiny_models import tiny_model

    fleet.write(model={"uri": "hf://me/tiny"}, engine={"torch": {"threads": 1}}, gpu={"count": 0})
    with FakeHub("me/tiny") as hub:
        hub.commit(tiny_model("llama"))
        fleet.environment |= {"HF_ENDPOINT": hub.url, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        fleet.up()
        assert hub.downloads.count("model.safetensors") == 1
    with fleet.sampler(monkeypatch) as sampler:
        answer = sampler.sample({"input_ids": [5, 6]}, {"max_tokens": 4, "temperature": 0})
    assert len(answer.sequences[0].tokens) > 0
    assert answer.sequences[0].segments[0].replica in fleet.pods


def test_several_engines_of_a_pod_are_endpoints_of_their_own(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.write(replicas=1, enginesPerGPU=2)
    fleet.up()
    (pod,) = fleet.pods.values()
    assert len(pod.urls) == 2
    with fleet.sampler(monkeypatch) as sampler:
        inputs = [{"input_ids": [number]} for number in range(1, 33)]
        answer = sampler.sample(inputs, {"max_tokens": 10})
    used = {s.replica for sequence in answer.sequences for s in sequence.segments}
    assert used == {f"{pod.name}:{url.rpartition(':')[2]}" for url in pod.urls}


def test_a_fleet_that_cannot_start_says_why_and_leaves_nothing(fleet: Fleet) -> None:
    fleet.write(replicas=1, engine={"sim": {"extraArgs": ["--sim-jitter", "7"]}})
    done = fleet.run("up", "--file", str(fleet.file), "--detach")
    assert done.returncode == 1
    assert "EngineStartFailed" in done.stderr
    assert "--sim-jitter" in done.stderr
    assert fleet.folder.holder() == 0


def test_a_replica_that_does_not_start_in_time_names_the_limit(fleet: Fleet) -> None:
    probe = {"httpGet": {"path": "/nothing", "port": "manage"}}
    overrides = {"spec": {"containers": [{"name": "server", "startupProbe": probe}]}}
    fleet.write(replicas=1, startupTimeoutSeconds=10, podTemplateOverrides=overrides)
    with subprocess.Popen(
        fleet.words("up", "--file", str(fleet.file)), env=fleet.environment
    ) as process:
        said = "did not start within startupTimeoutSeconds (10 s)"
        wait_until(lambda: said in _ready_message(fleet), said, 45)
        process.send_signal(signal.SIGINT)


def _ready_message(fleet: Fleet) -> str:
    state = read_state(fleet.folder)
    return "" if state is None else str(state.condition("Ready").get("message", ""))


def test_a_change_that_cannot_start_leaves_what_serves_until_it_is_put_right(fleet: Fleet) -> None:
    fleet.up()
    before = set(fleet.pods)
    fleet.write(engine={"sim": {"extraArgs": ["--sim-jitter", "7"]}})
    done = fleet.run("up", "--file", str(fleet.file), "--detach")
    assert done.returncode == 1
    assert "EngineStartFailed" in done.stderr
    left = [pod for pod in fleet.pods.values() if pod.ready]
    assert len(left) == 1
    assert left[0].name in before
    fleet.write()
    fleet.up()
    assert left[0].name in fleet.pods
    assert all(pod.ready for pod in fleet.pods.values())


def test_a_replica_that_hangs_is_killed_when_its_grace_is_over_and_starts_again(
    fleet: Fleet,
) -> None:
    probe = {"periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 2}
    overrides = {
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "server", "livenessProbe": probe}],
        }
    }
    fleet.write(replicas=1, podTemplateOverrides=overrides)
    fleet.up()
    (before,) = fleet.pods.values()
    os.kill(before.pid, signal.SIGSTOP)
    wait_until(lambda: fleet.pods[before.name].restarts == 1, "a restart", 30)
    wait_until(lambda: fleet.pods[before.name].ready, "readiness after it", 30)
    assert fleet.pods[before.name].pid != before.pid


def test_a_replica_has_a_device_of_its_own_and_a_new_one_waits_for_it(fleet: Fleet) -> None:
    fleet.environment["CUDA_VISIBLE_DEVICES"] = "7"
    fleet.write(replicas=1, gpu={"count": 1})
    fleet.up()
    (before,) = fleet.pods.values()
    assert device_of(before.pid) == "7"
    fleet.write(replicas=1, gpu={"count": 1}, engine={"sim": {"decodeRate": 41}})
    told = fleet.up()
    (after,) = fleet.pods.values()
    assert device_of(after.pid) == "7"
    assert "Insufficient nvidia.com/gpu: 1 needed, 0 of 1 free" in told
    assert not is_alive(before.pid)
    fleet.write(replicas=1, gpu={"count": 2}, tensorParallelSize=2)
    refused = fleet.run("up", "--file", str(fleet.file))
    assert refused.returncode == 1
    assert "this machine has 1 GPU; set gpu.count: 0" in refused.stderr


def test_a_replica_of_several_devices_has_exactly_those(fleet: Fleet) -> None:
    fleet.environment["CUDA_VISIBLE_DEVICES"] = "3,7"
    fleet.write(replicas=1, tensorParallelSize=2, gpu={"count": 2})
    fleet.up()
    (pod,) = fleet.pods.values()
    assert device_of(pod.pid) == "3,7"


def test_engines_of_a_replica_share_its_one_device(fleet: Fleet) -> None:
    fleet.environment["CUDA_VISIBLE_DEVICES"] = "3,7"
    fleet.write(replicas=2, enginesPerGPU=2, gpu={"count": 1})
    fleet.up()
    devices = {}
    for name, pod in fleet.pods.items():
        engines = children_of(pod.pid)
        assert len(engines) == len(pod.urls) == 2
        devices[name] = {device_of(engine) for engine in engines}
    assert sorted(map(sorted, devices.values())) == [["3"], ["7"]]


def test_a_pause_holds_back_what_was_not_rolled_out_before_it(fleet: Fleet) -> None:
    faster = {"sim": {"decodeRate": 41, "maxNumSeqs": 8}}
    fleet.write(replicas=1, paused=True)
    told = fleet.up()
    assert "changes of the pod template wait until spec.paused is false" in told
    assert fleet.pods == {}
    fleet.write(replicas=1)
    fleet.up()
    (before,) = fleet.pods
    fleet.write(replicas=0)
    fleet.up()
    fleet.write(replicas=0, paused=True, engine=faster)
    fleet.up()
    fleet.write(replicas=1, paused=True, engine=faster)
    fleet.up()
    wait_until(lambda: any(pod.ready for pod in fleet.pods.values()), "a replica")
    (during,) = fleet.pods
    assert during.rpartition("-")[0] == before.rpartition("-")[0]
    fleet.write(replicas=1, engine=faster)
    fleet.up()
    (after,) = fleet.pods
    assert after.rpartition("-")[0] != before.rpartition("-")[0]


def test_a_fleet_in_the_foreground_ends_with_the_terminals_interrupt(fleet: Fleet) -> None:
    fleet.write(replicas=1)
    with subprocess.Popen(
        fleet.words("up", "--file", str(fleet.file)),
        env=fleet.environment | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        told = []
        for line in process.stdout:
            told.append(line)
            if "UpToDate=True" in line:
                break
        (pod,) = fleet.pods.values()
        process.send_signal(signal.SIGINT)
        told += list(process.stdout)
    assert process.returncode == 0
    assert any(f"pod {pod.name}: is ready at {pod.urls[0]}" in line for line in told)
    assert f"pod {pod.name}: has ended\n" in told
    assert not is_alive(pod.pid)


def test_replicas_do_not_outlive_a_runtime_that_is_killed(fleet: Fleet) -> None:
    fleet.write(replicas=1)
    fleet.up()
    (pod,) = fleet.pods.values()
    os.kill(fleet.folder.holder(), signal.SIGKILL)
    wait_until(lambda: not is_alive(pod.pid), "the end of the replica")
    assert fleet.folder.holder() == 0
