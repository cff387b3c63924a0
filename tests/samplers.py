"""The samplers that the conformance tests run against: one line each in ``SAMPLERS``.

Every one serves the same tiny model in float32 (vLLM's in ``DTYPE``, which is that too unless
somebody says otherwise). What a kind needs (a server process) is started once and lives as long as
the test session; a sampler of it is cheap to make.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from tests.reference import DTYPE
from tests.servers import Server
from tests.tiny_models import cache_root, tiny_model

from sampler_core.base import SamplerBase

__all__ = ["SAMPLERS", "OpenSampler", "SamplerKinds", "has_gpu", "is_of_vllm", "runs_here"]

OpenSampler = Callable[[], SamplerBase]
"""Makes a sampler of one kind; the caller closes it."""


@contextmanager
def _torch(adapter_root: Path) -> Iterator[OpenSampler]:
    from sampler_server import TorchSampler

    yield lambda: TorchSampler(str(tiny_model()), dtype="float32", device="cpu")


@contextmanager
def _torch_tp2(adapter_root: Path) -> Iterator[OpenSampler]:
    from sampler_server import TorchSampler

    options: dict[str, Any] = {"device": "cpu", "tensor_parallel_size": 2}
    yield lambda: TorchSampler(str(tiny_model()), dtype="float32", **options)


@contextmanager
def _remote_torch(adapter_root: Path) -> Iterator[OpenSampler]:
    from sampler_client import RemoteSampler

    with Server(
        f"--model={tiny_model()}",
        "--dtype=float32",
        "--device=cpu",
        "--threads=1",
        "--drain-seconds=0",
        "--log-level=warning",
        f"--adapter-root={adapter_root}",
        f"--adapter-root={cache_root()}",
        engine="torch",
    ) as server:
        yield lambda: RemoteSampler(server.url)


@contextmanager
def _vllm(adapter_root: Path) -> Iterator[OpenSampler]:
    from sampler_server import vLLMSampler

    yield lambda: vLLMSampler(str(tiny_model()), dtype=DTYPE, **_vllm_options())


@contextmanager
def _vllm_tp2(adapter_root: Path) -> Iterator[OpenSampler]:
    from sampler_server import vLLMSampler

    options = _vllm_options(tensor_parallel_size=2)
    yield lambda: vLLMSampler(str(tiny_model()), dtype=DTYPE, **options)


@contextmanager
def _remote_vllm(adapter_root: Path) -> Iterator[OpenSampler]:
    from sampler_client import RemoteSampler

    with Server(
        f"--model={tiny_model()}",
        f"--dtype={DTYPE}",
        "--max-num-seqs=64",
        "--max-kv-tokens=65536",
        *(f"--{name.replace('_', '-')}={value}" for name, value in _on_a_gpu().items()),
        *(["--max-adapters=0"] if is_without_adapters() else []),
        "--drain-seconds=0",
        "--log-level=warning",
        f"--adapter-root={adapter_root}",
        f"--adapter-root={cache_root()}",
        engine="vllm",
    ) as server:
        yield lambda: RemoteSampler(server.url)


def _vllm_options(**more: Any) -> dict[str, Any]:
    args = {**_on_a_gpu(), "enforce_eager": True, **more}
    made: dict[str, Any] = {"slots": 64, "kv_tokens": 65_536, "engine_args": args}
    if is_without_adapters():
        made["max_adapters"] = 0
    return made


def has_gpu() -> bool:
    """Whether vLLM computes on one here."""
    return _gpus() > 0


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _on_a_gpu() -> dict[str, Any]:
    """Arguments of vLLM's own; several engines share a GPU."""
    return {"gpu_memory_utilization": 0.3} if has_gpu() else {}


def is_without_adapters() -> bool:
    """On a GPU vLLM computes adapters in 16 bits only: `scripts/test_vllm_gpu.sh` runs both."""
    return has_gpu() and DTYPE == "float32"


SAMPLERS: Final[dict[str, Callable[[Path], AbstractContextManager[OpenSampler]]]] = {
    "torch": _torch,
    "torch-tp2": _torch_tp2,
    "remote-torch": _remote_torch,
    "vllm": _vllm,
    "vllm-tp2": _vllm_tp2,
    "remote-vllm": _remote_vllm,
}
"""Name of each kind and its context; the argument is a directory below which adapters are read."""


def is_of_vllm(kind: str) -> bool:
    """Whether vLLM is its engine."""
    return "vllm" in kind.split("-")


def runs_here(kind: str) -> bool:
    """Whether its engine is installed, and the devices are there. vLLM has an environment of its
    own: `make test-vllm`."""
    if not is_of_vllm(kind):
        return True
    if find_spec("vllm") is None:
        return False
    return not kind.endswith("-tp2") or _gpus() != 1


class SamplerKinds:
    """Kinds that have been started, and up to two samplers of each that tests share. Ends them all
    on exit."""

    def __init__(self, adapter_root: Path) -> None:
        self.adapter_root = adapter_root
        self._stack = ExitStack()
        self._openers: dict[str, OpenSampler] = {}
        self._shared: dict[tuple[str, int], SamplerBase] = {}

    def open(self, kind: str) -> SamplerBase:
        """A new sampler; the caller closes it."""
        if kind not in self._openers:
            context = SAMPLERS[kind](self.adapter_root)
            self._openers[kind] = self._stack.enter_context(context)
        return self._openers[kind]()

    def shared(self, kind: str) -> SamplerBase:
        """The sampler that all tests use which do not change it."""
        return self._kept(kind, 1)

    def second(self, kind: str) -> SamplerBase:
        """One that has nothing to do with it but the server."""
        return self._kept(kind, 2)

    def _kept(self, kind: str, number: int) -> SamplerBase:
        if (kind, number) not in self._shared:
            self._shared[kind, number] = self._stack.enter_context(self.open(kind))
        return self._shared[kind, number]

    def __enter__(self) -> "SamplerKinds":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
