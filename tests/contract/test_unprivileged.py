"""A server in a pod that may do nothing: a user without a name, no writable root."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from tests.pod_root import contained
from tests.raw_adapters import write_adapter
from tests.servers import ProgramServer

from sampler_api.fleet import ADAPTERS_FILE, AdaptersConfig
from sampler_api.params import SamplingParams
from sampler_core.adapters import snapshot_adapter

NOBODY = 2000
AS_NOBODY = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("--bounding-set=-all", "--inh-caps=-all"),
)
NAMES = ("USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CONFIG_HOME", "HF_HOME")
WRITABLE = ("HOME", "TMPDIR", "XDG_CACHE_HOME")


def why_not() -> str:
    """What this machine lacks; empty when the test can run."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        return "only root with setpriv becomes somebody else"
    command = [*AS_NOBODY, sys.executable, "-c", "import sampler_api, pwd; pwd.getpwuid(2000)"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if "KeyError" in tried.stderr else f"uid {NOBODY} has a name, or cannot read Python"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only place where the server may write, below folders of others."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for variable in NAMES:
            monkeypatch.delenv(variable, raising=False)
        for variable in WRITABLE:
            place = folder / variable.lower()
            place.mkdir()
            os.chown(place, NOBODY, NOBODY)
            monkeypatch.setenv(variable, str(place))
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        yield folder


def test_a_user_without_a_name_serves_and_loads_adapters(folder: Path) -> None:
    adapter = write_adapter(folder / "adapter", 1)
    digest = snapshot_adapter(adapter).digest
    options = ("--engine", "sim", "--port", "0", "--manage-port", "0", "--listen-seconds", "0")
    words = (sys.executable, "-m", "sampler_cli.main", "serve", *options)
    with ProgramServer(*AS_NOBODY, *words, "--adapter-root", str(folder)) as server:
        assert os.stat(f"/proc/{server.announced['pid']}").st_uid == NOBODY
        body = {"digest": digest, "path": str(adapter)}
        assert httpx.post(server.url + "/v1/adapters", json=body).status_code == 201
        assert server.stop() == 0


ON_ANY_PORT = ("--port=0", "--manage-port=0", "--listen-seconds=0", "--drain-seconds=0")
SIM = ("sim://policy", {"sim": {"extraArgs": [*ON_ANY_PORT]}})
VLLM = (
    "pvc://models/tiny",
    {
        "vllm": {
            "dtype": "float32",
            "maxModelLen": 512,
            "maxNumSeqs": 8,
            "extraArgs": [*ON_ANY_PORT, "--max-kv-tokens=8192"],
        }
    },
)
PROMPT = [5, 130, 17, 131, 40]


@pytest.mark.parametrize(
    ("uri", "engine"),
    [
        pytest.param(*SIM, id="sim"),
        pytest.param(
            *VLLM,
            id="vllm",
            marks=[
                pytest.mark.skipif(find_spec("vllm") is None, reason="`make test-vllm` has it"),
                pytest.mark.timeout(300),  # vLLM's processes import for half a minute
                # Engines that ran in this process before have left what vLLM does not close.
                pytest.mark.filterwarnings("ignore"),
            ],
        ),
    ],
)
def test_a_container_writes_only_where_its_template_lets_it(
    folder: Path, uri: str, engine: dict[str, Any]
) -> None:
    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    adapter = _published(folder, "vllm" in engine)
    template = _template(uri, engine)
    config = folder / "config"
    config.mkdir()
    (config / ADAPTERS_FILE).write_bytes(msgspec.json.encode(AdaptersConfig()))
    sources = {"adapters-config": config, "lora-adapters": folder / "adapters"}
    if uri.startswith("pvc:"):
        from tests.tiny_models import tiny_model

        sources["model"] = _readable(tiny_model(), folder / "models" / "tiny").parent
    root = folder / "root"
    root.mkdir()
    with ProgramServer(*contained(template, root, sources)) as server:
        assert os.stat(f"/proc/{server.announced['pid']}").st_uid == NOBODY
        digest = snapshot_adapter(adapter).digest
        params: dict[str, Any] = {"max_tokens": 8, "temperature": 0, "logprobs": 1}
        body: dict[str, Any] = {"inputs": [{"input_ids": PROMPT}], "sampling_params": params}
        for asked in (None, {"digest": digest, "name": "policy", "path": "/adapters/a1"}):
            answer = httpx.post(
                f"{server.url}/v1/sample", json={**body, "adapter": asked}, timeout=60
            ).json()
            assert "responses" in answer, answer
            (response,) = answer["responses"]
            assert "sequences" in response, response
            (sequence,) = response["sequences"]
            assert response["revision"]["adapter"] == (digest if asked else None)
            assert len(sequence["tokens"]) == 8
            if "vllm" in engine:
                _assert_exact(sequence, SamplingParams(**params), "a1" if asked else None)
        assert server.stop() == 0
    assert " ERROR " not in server.log


def _template(uri: str, engine: dict[str, Any]) -> dict[str, Any]:
    from sampler_operator.pod.template import LAYOUTS
    from sampler_operator.spec.parse import parse

    volume = {
        "name": "adapters",
        "mountPath": "/adapters",
        "persistentVolumeClaim": {"claimName": "adapters"},
    }
    manifest = {
        "apiVersion": "sampler.dev/v1alpha1",
        "kind": "SamplerDeployment",
        "metadata": {"name": "policy", "namespace": "default", "uid": "1"},
        "spec": {
            "model": {"uri": uri},
            "engine": engine,
            "gpu": {"count": 0},
            "lora": {"volumes": [volume]},
        },
    }
    return dict(LAYOUTS[max(LAYOUTS)](parse(manifest), "image"))


def _published(folder: Path, is_real: bool) -> Path:
    """An adapter for the model of the engine, on the volume for them."""
    if not is_real:
        return write_adapter(folder / "adapters" / "a1", 1)
    from tests.tiny_adapters import tiny_adapter

    return _readable(tiny_adapter("a1"), folder / "adapters" / "a1")


def _readable(source: Path, target: Path) -> Path:
    """A copy that everybody may read."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        shutil.copyfile(file, target / file.name)
    return target


def _assert_exact(sequence: dict[str, Any], params: SamplingParams, adapter: str | None) -> None:
    from tests.reference import TOLERANCE, reference

    expected = reference().greedy(PROMPT, params, adapter)
    assert sequence["tokens"] == expected.tokens
    given = [row[0][1] for row in sequence["logprobs"]]
    np.testing.assert_allclose(given, expected.logprobs, rtol=0, atol=TOLERANCE)
