"""What a vLLM engine decides and says without vLLM: versions, errors in one line, intervals."""

import json
import logging
import logging.config
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sampler_api.errors import Unsupported
from sampler_server.engines.vllm.environment import ERRORS_FILE, vllm_environment
from sampler_server.engines.vllm.intervals import output_interval
from sampler_server.engines.vllm.options import VllmOptions
from sampler_server.engines.vllm.reasons import one_line, root_cause
from sampler_server.engines.vllm.versions import FIRST, NEXT, check_version

ROOT = Path(__file__).parents[2]

PYDANTIC = """1 validation error for CacheConfig
gpu_memory_utilization
  Input should be less than or equal to 1 [type=less_than_equal, input_value=7.0, input_type=float]
    For further information visit https://errors.pydantic.dev/2.14/v/less_than_equal"""
VALIDATOR = """1 validation error for ModelConfig
  Value error, User-specified max_model_len (99999) is greater than 2048 [type=value_error, input_v]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error"""

LOG = """2026-11-26 15:00:00,000 ERROR vllm.v1.executor: WorkerProc failed to start.
Traceback (most recent call last):
  File "worker.py", line 1, in run
    load()
KeyError: 'model.layers.0.weight'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "worker.py", line 2, in run
    raise
safetensors_rust.SafetensorError: Error while deserializing header: header too large
2026-11-26 15:00:01,000 ERROR vllm.v1.engine.core: EngineCore failed to start.
Traceback (most recent call last):
  File "core.py", line 9, in run
    start()
Exception: WorkerProc initialization failed due to an exception in a background process.
RuntimeError: Engine core initialization failed. See root cause above.
"""


@pytest.mark.parametrize("version", ["0.25.1", "0.25.1+cu130", "0.26.0", "0.32.0", "0.32.9rc1"])
def test_a_version_in_the_range_is_taken(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["0.25.0", "0.19.1", "0.33.0", "1.0.0", "unknown"])
def test_any_other_version_is_refused_with_the_range(version: str) -> None:
    with pytest.raises(Unsupported, match=r"0\.25\.1 and newer, below 0\.33") as caught:
        check_version(version)
    assert version in caught.value.message


def test_the_range_is_that_of_the_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = f"vllm>={'.'.join(map(str, FIRST))},<{'.'.join(map(str, NEXT))};"
    assert any(line.startswith(wanted) for line in project["optional-dependencies"]["vllm"])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("wrong\nand more", "wrong", id="the first line"),
        pytest.param("", "ValueError", id="the class of an error without a message"),
        pytest.param(
            PYDANTIC,
            "gpu_memory_utilization: Input should be less than or equal to 1",
            id="field and reason of a validation",
        ),
        pytest.param(
            VALIDATOR,
            "User-specified max_model_len (99999) is greater than 2048",
            id="reason of a validator",
        ),
    ],
)
def test_an_error_is_one_line(text: str, line: str) -> None:
    assert one_line(ValueError(text)) == line


def test_the_first_error_of_a_log_is_the_cause_and_not_what_others_say_of_it() -> None:
    assert root_cause(LOG) == "KeyError: 'model.layers.0.weight'"
    rest = LOG[LOG.index("2026-11-26 15:00:01") :]
    assert root_cause(rest) is None
    assert root_cause("") is None


@pytest.mark.parametrize(
    ("running", "has_stops", "is_interactive", "interval"),
    [
        pytest.param(0, False, False, 1, id="a lone sequence is told of at once"),
        pytest.param(3, True, True, 1, id="and so are a few"),
        pytest.param(20, False, False, 4, id="a part of a small batch in short pieces"),
        pytest.param(40, False, False, 16, id="of a larger batch in long ones"),
        pytest.param(200, False, False, 32, id="of a large batch in those that sessions send"),
        pytest.param(200, True, False, 4, id="but with stop strings in short ones"),
        pytest.param(200, False, True, 4, id="and when somebody reads along"),
    ],
)
def test_how_many_tokens_are_gathered(
    running: int, has_stops: bool, is_interactive: bool, interval: int
) -> None:
    assert output_interval(running, has_stops, is_interactive) == interval


def test_what_vllm_starts_with_is_gone_afterwards_and_what_is_set_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "mine")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    import os

    with vllm_environment(tmp_path, {"MORE": "1"}):
        assert os.environ["DO_NOT_TRACK"] == "mine"
        assert os.environ["HF_HUB_OFFLINE"] == os.environ["MORE"] == "1"
        assert os.environ["VLLM_RPC_BASE_PATH"] == str(tmp_path)
        assert Path(os.environ["VLLM_LOGGING_CONFIG_PATH"]).is_file()
    assert os.environ["DO_NOT_TRACK"] == "mine"
    assert not {"HF_HUB_OFFLINE", "MORE", "VLLM_RPC_BASE_PATH"} & os.environ.keys()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        pytest.param({"enable_lora": False}, {"max_adapters": 0}, id="adapters off"),
        pytest.param({"enable_lora": True}, {"max_adapters": 16}, id="adapters on"),
        pytest.param({"max_lora_rank": 32}, {"max_lora_rank": 32}, id="the largest rank"),
        pytest.param({"logprobs_mode": "raw_logprobs"}, {"logprobs_mode": "raw"}, id="the mode"),
    ],
)
def test_arguments_of_vllm_that_have_a_name_here_mean_it(
    given: dict[str, Any], found: dict[str, Any]
) -> None:
    options = VllmOptions(Path("model"), engine_args={**given, "block_size": 16}).settled()
    assert options.engine_args == {"block_size": 16}
    assert {name: getattr(options, name) for name in found} == found


def test_an_error_that_is_logged_after_the_engines_folder_has_gone_hurts_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scratch").mkdir()
    with vllm_environment(tmp_path / "scratch"):
        config = json.loads(Path(os.environ["VLLM_LOGGING_CONFIG_PATH"]).read_text())
    logging.config.dictConfig(config)
    logger = logging.getLogger("vllm.engine")
    try:
        (tmp_path / "scratch").rename(tmp_path / "gone")
        logger.error("told on stderr")
        assert "told on stderr" in capsys.readouterr().err
        (tmp_path / "gone").rename(tmp_path / "scratch")
        logger.error("told in the file")
        assert "told in the file" in (tmp_path / "scratch" / ERRORS_FILE).read_text()
    finally:
        for handler in logging.getLogger("vllm").handlers[:]:
            logging.getLogger("vllm").removeHandler(handler)
            handler.close()
        logging.getLogger("vllm").propagate = True
