"""An engine of this process that dies or hangs: every call ends with EngineDead, and so do later
ones."""

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

pytest.importorskip("torch")

from tests.tiny_adapters import tiny_adapter
from tests.tiny_models import tiny_model
from tests.torch_harness import TorchHarness, ask

from sampler_api.errors import EngineDead, SamplerClosed
from sampler_server import TorchSampler, local_sampler
from sampler_server.engines.torch.core import TorchCore
from sampler_server.watchdog import watch

LONG = {"max_tokens": 1500, "ignore_eos": True}
WAIT_SECONDS = 20.0


def fail(*_: object) -> None:
    raise RuntimeError("the device has gone")


class Gate:
    """A logits processor that lets steps pass until it is shut."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.is_open.set()
        self.has_stopped = threading.Event()

    def __call__(self, ids: Sequence[Sequence[int]], logits: Any) -> Any:
        if not self.is_open.is_set():
            self.has_stopped.set()
            self.is_open.wait()
        return logits


class Caller:
    """A call on a thread of its own, and what it raised."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:
            self._error = error

    def error(self) -> BaseException | None:
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive(), "the call still waits"
        return self._error


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.is_open.set()


def opened(**options: Any) -> TorchSampler:
    return TorchSampler(str(tiny_model()), dtype="float32", device="cpu", threads=1, **options)


def sample(sampler: TorchSampler, **params: Any) -> object:
    return sampler.sample([{"input_ids": [5, 6, 7]}, {"input_ids": [8, 9]}], params)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("step", id="in a step"),
        pytest.param("take", id="while it takes a request, of which it then knows nothing"),
        pytest.param("progress", id="after a step, with tokens that were not delivered"),
    ],
)
def test_calls_raise_when_the_engine_dies(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened() as sampler:
        monkeypatch.setattr(TorchCore, method, fail)
        first = Caller(lambda: sample(sampler, **LONG)).error()
        assert isinstance(first, EngineDead)
        assert "the device has gone" in first.message
        assert isinstance(Caller(lambda: sample(sampler)).error(), EngineDead)


def test_adapters_are_refused_when_the_engine_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened() as sampler:
        monkeypatch.setattr(TorchCore, "take", fail)
        assert isinstance(Caller(lambda: sample(sampler)).error(), EngineDead)
        late = Caller(lambda: sampler.add_adapter_to_model("policy", tiny_adapter("a1")))
        assert isinstance(late.error(), EngineDead)


def test_calls_raise_when_the_engine_hangs(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = partial(watch, poll_seconds=0.02, floor_seconds=0.5)
    monkeypatch.setattr(local_sampler, "watch", quick)
    with opened(logits_processor=gate, stall_seconds=0.5) as sampler:
        sample(sampler, max_tokens=3)
        gate.is_open.clear()
        first = Caller(lambda: sample(sampler, **LONG)).error()
        assert isinstance(first, EngineDead)
        assert "no step for" in first.message
        assert isinstance(Caller(lambda: sample(sampler)).error(), EngineDead)
        assert gate.has_stopped.is_set()
    with pytest.raises(SamplerClosed):
        sampler.add_adapter_to_model("policy", tiny_adapter("a1"))


def test_whoever_waits_for_a_hanging_engine_to_take_an_adapter_is_let_go(gate: Gate) -> None:
    harness = TorchHarness(logits_processor=gate)
    engine = harness.engine
    gate.is_open.clear()
    engine.submit([ask([5, 6, 7])])
    assert gate.has_stopped.wait(WAIT_SECONDS)
    loading = Caller(lambda: engine.load_adapter("sha256:1", tiny_adapter("a1")))
    closing = Caller(engine.close)
    assert isinstance(loading.error(), EngineDead)
    gate.is_open.set()
    assert closing.error() is None
