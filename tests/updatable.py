"""Samplers whose base weights can be replaced, of every kind: by their own method, or on the
management port of the one server that they sample from."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
from tests.proxy import wait_until
from tests.reference import DTYPE
from tests.samplers import has_gpu, is_without_adapters
from tests.servers import ProgramServer, Server
from tests.tiny_models import cache_root, tiny_model

from sampler_api.errors import error_from_wire
from sampler_api.names import WEIGHTS_PATH
from sampler_core.base import SamplerBase
from sampler_core.bases import base_digest
from sampler_core.checked_weights import CheckedWeights, base_layout, check_weights

__all__ = ["Updatable", "ask_for", "checked", "digest_of", "updatable"]

_SECONDS: Final = 120
"""Running sequences may be waited for."""


class Updatable:
    """A sampler and the way in which its weights are replaced."""

    def __init__(self, sampler: Any, server: Server | None = None) -> None:
        self.sampler: SamplerBase = sampler
        self._own = sampler
        self._server = server

    @property
    def base(self) -> str:
        """The base that new calls name."""
        return self.sampler._backend.card().base

    @property
    def running(self) -> int:
        """Sequences that have begun and not ended, as the engine's own counters say."""
        if self._server is not None:
            return int(self._server.status()["load"]["running"])
        return int(self._own._engine.progress().running)

    def update(self, where: int | Path, **how: Any) -> str:
        """Serve another step of the tiny model, or a directory; the digest that is served now.

        Returns when the sampler knows of it. Raises what the update raises.
        """
        directory = tiny_model(step=where) if isinstance(where, int) else where
        base = self._update(directory, how)
        # A client hears of it with its next session.
        wait_until(lambda: self.base == base, "the sampler knows the base", _SECONDS)
        return base

    def _update(self, directory: Path, how: dict[str, Any]) -> str:
        if self._server is None:
            return str(self._own.update_weights(directory, **how).base)
        return ask_for(self._server, directory, **how)


def ask_for(server: ProgramServer, directory: Path, **how: Any) -> str:
    """Have a server replace its weights; the digest that it serves then. Raises its answer."""
    answer = httpx.post(
        f"{server.manage.url}{WEIGHTS_PATH}",
        json={"directory": str(directory), **how},
        timeout=_SECONDS,
    )
    found = answer.json()
    if answer.status_code != 200:
        error = found["error"]
        raise error_from_wire(error["code"], error["message"], error["field"])
    return str(found["base"])


@contextmanager
def updatable(kind: str, roots: Path) -> Iterator[Updatable]:
    """A sampler of its own for this test; ``roots`` is where a server may read."""
    from sampler_client import RemoteSampler

    is_remote = kind.startswith("remote-")
    engine, _, ranks = kind.removeprefix("remote-").partition("-tp")
    options: dict[str, Any] = {"dtype": DTYPE}
    if engine == "torch":
        options |= {"device": "cpu", "slots": 8}
        if ranks:
            options["tensor_parallel_size"] = int(ranks)
    else:
        options |= {"slots": 8, "kv_tokens": 32_768}
        args: dict[str, Any] = {"tensor_parallel_size": int(ranks)} if ranks else {}
        if has_gpu():
            args |= {"gpu_memory_utilization": 0.3, "enforce_eager": True}
        options["engine_args"] = args
        if is_without_adapters():
            options["max_adapters"] = 0
    if not is_remote:
        from sampler_server import TorchSampler, vLLMSampler

        made = (TorchSampler if engine == "torch" else vLLMSampler)(str(tiny_model()), **options)
        with made:
            yield Updatable(made)
        return
    words = {
        "device": "--device",
        "slots": "--max-num-seqs",
        "kv_tokens": "--max-kv-tokens",
        "max_adapters": "--max-adapters",
    }
    arguments = [f"{words[name]}={value}" for name, value in options.items() if name in words]
    if has_gpu():
        arguments += ["--gpu-memory-utilization=0.3"]
    with (
        Server(
            f"--model={tiny_model()}",
            f"--dtype={DTYPE}",
            *arguments,
            "--drain-seconds=0",
            "--log-level=warning",
            f"--adapter-root={roots}",
            f"--adapter-root={cache_root()}",
            engine=engine,
        ) as server,
        RemoteSampler(server.url) as sampler,
    ):
        yield Updatable(sampler, server)


def checked(step: int = 1) -> CheckedWeights:
    """A step of the tiny model, checked against the first."""
    return check_weights(tiny_model(step=step), base_layout(tiny_model()))


def digest_of(step: int) -> str:
    """Of a step of the tiny model."""
    return base_digest(tiny_model(step=step))
