"""``sampler serve`` as a program: what it prints, what it refuses, and how it ends."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tests.ledger import read_ledger
from tests.raw_adapters import write_adapter
from tests.servers import Server

from sampler_core.adapters import snapshot_adapter
from sampler_core.seeds import child_seed
from sampler_server.engines.sim import base_digest
from sampler_server.engines.sim.tokens import sim_sequence


def sampler(*words: str, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *python, "-m", "sampler_cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_help_imports_nothing_heavy() -> None:
    result = sampler("--help", python=("-X", "importtime"))
    assert result.returncode == 0
    assert "serve" in result.stdout
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    heavy = {"numpy", "torch", "transformers", "fastapi", "msgspec", "sampler_api"}
    assert "typer" in imported
    assert imported & heavy == set()


def test_version_says_package_and_protocol() -> None:
    result = sampler("version")
    assert result.stdout.startswith("sampler-operator ")
    assert "sampler.v1" in result.stdout


@pytest.mark.parametrize(
    ("words", "named"),
    [
        pytest.param(["--engine", "foo"], "--engine", id="an unknown engine"),
        pytest.param([], "--engine", id="no engine"),
        pytest.param(["--engine=sim", "--port=70000"], "--port", id="no port"),
        pytest.param(["--engine=sim", "--prot=1"], "--prot", id="a misspelt option"),
        pytest.param(["--engine=sim", "--sim-jitter=2"], "--sim-jitter", id="a sim rate"),
        pytest.param(["--engine=sim", "--sim-fail-rate=2"], "--sim-fail-rate", id="a fault rate"),
        pytest.param(["--engine=sim", "--adapter-root=/absent"], "/absent", id="an absent root"),
        pytest.param(
            ["--engine=sim", "--token-file=/absent"], "/absent", id="an absent token file"
        ),
        pytest.param(["--engine=sim", "--log-level=loud"], "--log-level", id="a log level"),
        pytest.param(["--engine=torch", "--model=/absent"], "--model", id="an absent model"),
        pytest.param(
            ["--engine=torch", "--engines=2", "--tensor-parallel-size=2"],
            "--tensor-parallel-size",
            id="engines that share a device, of several",
        ),
        pytest.param(
            ["--engine=sim", "--engines=2", "--port=8000", "--manage-port=8001"],
            "--manage-port",
            id="ports that overlap",
        ),
        pytest.param(
            ["--engine=sim", "--port=8000", "--manage-port=8000"],
            "--manage-port",
            id="one port for both",
        ),
        pytest.param(
            ["--engine=sim", "--engines=2", "--port=8002", "--manage-port=8000"],
            "--manage-port",
            id="an engine's management port that is a data port",
        ),
        pytest.param(
            ["--engine=sim", "--engines=3", "--port=65534"], "--port", id="ports that run out"
        ),
        pytest.param(
            ["--engine=sim", "--engines=3", "--manage-port=65533"],
            "--manage-port",
            id="management ports that run out",
        ),
    ],
)
def test_a_wrong_option_is_one_line_and_code_2(words: list[str], named: str) -> None:
    result = sampler("serve", *words)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert named in line


def test_a_port_in_use_is_one_line_and_not_a_wrong_option() -> None:
    with Server() as first:
        port = str(first.announced["port"])
        result = sampler("serve", "--engine", "sim", "--port", port, "--manage-port", "0")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert port in line


def test_chosen_ports_are_one_json_line_and_both_serve() -> None:
    with Server("--model", "policy", "--model-name", "named", is_forked=False) as server:
        assert set(server.announced) == {"port", "manage_port", "pid"}
        assert httpx.get(server.manage.url + "/readyz").status_code == 200
        (model,) = httpx.get(server.url + "/v1/models").json()["data"]
        assert (model["id"], model["base"]) == ("named", base_digest("policy"))
        assert server.stop() == 0


def test_sim_options_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = tmp_path / "ledger"
    monkeypatch.setenv("SAMPLER_SIM_LEDGER", str(ledger))
    body = {"inputs": {"input_ids": [7]}, "sampling_params": {"max_tokens": 3, "seed": 1}}
    with Server(is_forked=False) as server:
        answer = httpx.post(server.url + "/v1/sample", json=body).json()
    made = [record.tokens for record in read_ledger(ledger)]
    assert made == [tuple(answer["responses"][0]["sequences"][0]["tokens"])]


def test_several_engines_are_one_line_and_end_together() -> None:
    with Server("--engines", "2", is_forked=False) as server:
        engines = server.announced["engines"]
        assert len({engine["port"] for engine in engines}) == 2
        for engine in engines:
            url = f"http://127.0.0.1:{engine['manage_port']}/readyz"
            assert httpx.get(url).status_code == 200
        assert server.stop() == 0
        for engine in engines:
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"http://127.0.0.1:{engine['port']}/v1/models")


def test_an_interrupt_ends_the_server_cleanly() -> None:
    with Server(is_forked=False) as server:
        server.send(signal.SIGINT)
        assert server.stop() == 0


def test_an_adapter_below_a_root_is_served_and_listed(tmp_path: Path) -> None:
    root = tmp_path / "adapters"
    digest = snapshot_adapter(write_adapter(root / "policy", 1)).digest
    outside = snapshot_adapter(write_adapter(tmp_path / "outside", 2)).digest
    body = {
        "inputs": {"input_ids": [7]},
        "sampling_params": {"max_tokens": 5, "seed": 1},
        "adapter": {"name": "policy", "digest": digest, "path": str(root / "policy")},
    }
    with Server("--adapter-root", str(root)) as server:
        (entry,) = httpx.post(server.url + "/v1/sample", json=body).json()["responses"]
        tokens = sim_sequence([7], child_seed(1, 0, 0), base_digest(), digest, 5)[0]
        assert entry["sequences"][0]["tokens"] == tokens
        assert entry["revision"] == {"base": base_digest(), "adapter": digest}
        models = [m["id"] for m in httpx.get(server.url + "/v1/models").json()["data"]]
        assert models == ["sim", f"policy@{digest}"]
        prompt = {"prompt": [7], "max_tokens": 5, "seed": 1, "return_token_ids": True}
        answer = httpx.post(
            server.url + "/v1/completions", json={"model": models[1], **prompt}
        ).json()
        assert answer["choices"][0]["token_ids"] == tokens

        body["adapter"] = {"digest": outside, "path": str(tmp_path / "outside")}
        (entry,) = httpx.post(server.url + "/v1/sample", json=body).json()["responses"]
        (sequence,) = entry["sequences"]
        assert sequence["tokens"] == []
        assert sequence["error"]["code"] in ("adapter_invalid", "adapter_missing")


def test_the_announcement_is_the_only_line_on_stdout() -> None:
    with Server("--log-level", "debug", is_forked=False) as server:
        httpx.get(server.url + "/v1/models")
        server.stop()
    assert server.output == ""
