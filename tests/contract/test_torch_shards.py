"""A model that is split over ranks computes what it computes whole; ranks are threads here."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sampler_api.errors import ModelInvalid  # noqa: E402
from sampler_server.engines.torch.adapters import Adapters  # noqa: E402
from sampler_server.engines.torch.lora import LoraWeights  # noqa: E402
from sampler_server.engines.torch.ranks.group import Group  # noqa: E402
from sampler_server.engines.torch.ranks.plan import Cut, Style, check_config  # noqa: E402
from sampler_server.engines.torch.ranks.shard import lora_part, shard  # noqa: E402

TOLERANCE = 1e-4
IDS = [[int(i) for i in np.random.default_rng(0).integers(3, 500, 20)]]
SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "num_key_value_heads": 6,
    "head_dim": 4,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
NO_HEAD_DIM = {"head_dim": None}
EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4, "num_experts": 4}


def made(architecture: str, **values: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    given = {k: v for k, v in {**SIZES, **values}.items() if v is not None or k == "bos_token_id"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(architecture, **given)
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name, weight in model.named_parameters():
                # The usual initialisation gives nearly flat logits, and biases of zero.
                if weight.dim() > 1 or name.endswith("bias"):
                    weight.normal_(0, 0.15)
    return model.float().eval()


class Meeting:
    """Where threads exchange tensors; stands in for a process group of torch."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._barrier = threading.Barrier(size, timeout=4)
        self._parts: list[Any] = [None] * size

    def exchange(self, rank: int, part: Any) -> list[Any]:
        self._parts[rank] = part.clone()
        self._barrier.wait()
        found = list(self._parts)
        self._barrier.wait()
        return found

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        """What the work of each rank gives, or the error of the first that failed."""

        def one(rank: int) -> Any:
            try:
                with torch.inference_mode():
                    return work(rank)
            except BaseException:
                self._barrier.abort()
                raise

        with ThreadPoolExecutor(self.size) as pool:
            return [future.result() for future in [pool.submit(one, r) for r in range(self.size)]]


class Backend:
    """One rank's end of a meeting, with the methods of a process group that ``Group`` calls."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self._meeting = meeting
        self._rank = rank

    def wait(self) -> None: ...

    def allreduce(self, tensors: list[Any]) -> "Backend":
        (part,) = tensors
        part.copy_(sum(self._meeting.exchange(self._rank, part)))
        return self

    def allgather(self, outputs: list[list[Any]], inputs: list[Any]) -> "Backend":
        for place, part in zip(
            outputs[0], self._meeting.exchange(self._rank, inputs[0]), strict=True
        ):
            place.copy_(part)
        return self

    def gather(self, outputs: list[list[Any]], inputs: list[Any], options: Any) -> "Backend":
        assert options.rootRank == 0
        assert bool(outputs) == (self._rank == 0)
        found = self._meeting.exchange(self._rank, inputs[0])
        for place, part in zip(outputs[0] if outputs else [], found, strict=False):
            place.copy_(part)
        return self


class Parts:
    """A model on several ranks."""

    def __init__(self, model: Any, ranks: int) -> None:
        self.meeting = Meeting(ranks)
        self.models = [copy.deepcopy(model) for _ in range(ranks)]
        self.cuts: list[dict[str, Cut]] = []
        self.key_heads: list[int] = []
        for rank, part in enumerate(self.models):
            group = Group(rank, ranks)
            group._group = Backend(self.meeting, rank)
            heads, cuts = shard(part, torch.device("cpu"), group)
            self.key_heads.append(heads)
            self.cuts.append(cuts)

    def logprobs(self, adapters: list[Adapters] | None = None) -> Any:
        """Of the first rank [T, V]."""

        def one(rank: int) -> Any:
            model = self.models[rank]
            ids = torch.tensor(IDS)
            if adapters is None:
                return model(ids, use_cache=False).logits[0]
            numbers = np.ones(ids.shape[1], np.int64)
            numbers[:6] = 0
            with adapters[rank].applied(numbers):
                return model(ids, use_cache=False).logits[0]

        return self.meeting.run(one)[0].log_softmax(-1)


def whole_logprobs(model: Any) -> Any:
    with torch.inference_mode():
        return model(torch.tensor(IDS), use_cache=False).logits[0].log_softmax(-1)


MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {}),
    "biases on q, k and v": ("qwen2", NO_HEAD_DIM),
    "biases on every layer, also where parts are summed": ("starcoder2", NO_HEAD_DIM),
    "norms within heads": ("qwen3", {}),
    "norms over all heads, whose inputs are joined": ("olmo2", NO_HEAD_DIM),
    "q, k and v in one layer, and gate and up": ("phi3", NO_HEAD_DIM),
    "q, k and v in turn": ("gpt_neox", {**NO_HEAD_DIM, "num_key_value_heads": None}),
    "a head that is tied to the embeddings": ("llama", {"tie_word_embeddings": True}),
    "a scaled output": ("granite", {**NO_HEAD_DIM, "logits_scaling": 3.0}),
    "a window": ("mistral", {"sliding_window": 8}),
    "experts": ("mixtral", EXPERTS),
    "experts of their own width": (
        "qwen3_moe",
        {**EXPERTS, "moe_intermediate_size": 24, "mlp_only_layers": [0]},
    ),
}


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(("architecture", "values"), MODELS.values(), ids=MODELS.keys())
def test_parts_of_a_model_compute_what_it_computes_whole(
    architecture: str, values: dict[str, Any], ranks: int
) -> None:
    model = made(architecture, **values)
    check_config(model.config, ranks)
    parts = Parts(model, ranks)
    expected = whole_logprobs(model)
    assert float((parts.logprobs() - expected).abs().max()) <= TOLERANCE
    # Something was split: a rank has less than the whole.
    sizes = [sum(p.numel() for p in part.parameters()) for part in parts.models]
    assert max(sizes) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("keys", "ranks", "left"),
    [
        pytest.param(6, 2, 3, id="each rank has some"),
        pytest.param(6, 6, 1, id="each rank has one"),
        pytest.param(2, 4, 1, id="two ranks have the same"),
        pytest.param(1, 3, 1, id="all ranks have the same"),
    ],
)
def test_key_heads_are_split_or_shared(keys: int, ranks: int, left: int) -> None:
    model = made("llama", num_key_value_heads=keys)
    parts = Parts(model, ranks)
    assert parts.key_heads == [left] * ranks
    assert float((parts.logprobs() - whole_logprobs(model)).abs().max()) <= TOLERANCE


@pytest.mark.parametrize("vocabulary", [512, 510, 509])
@pytest.mark.parametrize("is_tied", [False, True])
def test_a_vocabulary_need_not_divide(vocabulary: int, is_tied: bool) -> None:
    sizes = {"vocab_size": vocabulary, "num_key_value_heads": 4}
    model = made("llama", tie_word_embeddings=is_tied, **sizes)
    parts = Parts(model, 4)
    assert float((parts.logprobs() - whole_logprobs(model)).abs().max()) <= TOLERANCE


REFUSED: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "key heads that do not divide": ("llama", {}, 4, "num_key_value_heads is 6, .* divided by 4"),
    "query heads that do not divide": (
        "llama",
        {"num_attention_heads": 3, "num_key_value_heads": 3},
        2,
        "num_attention_heads is 3, which cannot be divided by 2",
    ),
    "a type without a plan": ("gpt2", {}, 2, "no plan to split a model of type gpt2"),
}


@pytest.mark.parametrize(
    ("architecture", "values", "ranks", "message"), REFUSED.values(), ids=REFUSED.keys()
)
def test_a_configuration_that_cannot_be_split_is_refused_by_number(
    architecture: str, values: dict[str, Any], ranks: int, message: str
) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(architecture, **{**SIZES, **values})
    with pytest.raises(ModelInvalid, match=f"^tensorParallelSize {ranks}: .*{message}") as raised:
        check_config(config, ranks)
    assert raised.value.field == "tensor_parallel_size"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"model.layers.*.mlp.down_proj": "packed_rowwise"},
            "'packed_rowwise', which is not served",
            id="a style that is not known",
        ),
        pytest.param(
            {"model.norm": "colwise"}, "model.norm is a .*Norm, no linear", id="no linear layer"
        ),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(change: dict[str, str], message: str) -> None:
    model = made("llama")
    model._tp_plan = {**model.tp_plan, **change}
    with pytest.raises(ModelInvalid, match=message):
        Parts(model, 2)


def test_a_width_that_does_not_divide_is_refused_by_name() -> None:
    with pytest.raises(ModelInvalid, match=r"mlp\.gate_proj has 95 outputs, .* divided by 2"):
        Parts(made("llama", intermediate_size=95), 2)


def an_adapter(model: Any, targets: tuple[str, ...]) -> dict[str, LoraWeights]:
    """Rank 4 on all layers with these names, half of them with a bias."""
    found: dict[str, LoraWeights] = {}
    generator = torch.Generator().manual_seed(3)
    for name, layer in model.named_modules():
        if name.rpartition(".")[2] in targets:
            a = torch.randn(4, layer.in_features, generator=generator) * 0.3
            b = torch.randn(layer.out_features, 4, generator=generator) * 0.3
            bias = torch.randn(layer.out_features, generator=generator) * 0.3
            found[name] = LoraWeights(a, b, bias if len(found) % 2 else None, 0.5)
    return found


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(
    ("architecture", "values", "targets"),
    [
        pytest.param(
            "llama",
            {},
            ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
            id="layers of every kind",
        ),
        pytest.param(
            "llama", {"num_key_value_heads": 1}, ("k_proj", "v_proj"), id="keys that ranks share"
        ),
        pytest.param(
            "phi3",
            NO_HEAD_DIM,
            ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
            id="layers whose outputs are joined",
        ),
        pytest.param(
            "qwen3_moe",
            {**EXPERTS, "moe_intermediate_size": 24},
            ("v_proj", "o_proj"),
            id="layers beside experts",
        ),
    ],
)
def test_parts_of_an_adapter_add_up_to_it(
    architecture: str, values: dict[str, Any], targets: tuple[str, ...], ranks: int
) -> None:
    model = made(architecture, **values)
    weights = an_adapter(model, targets)
    whole = Adapters(model, 1, 64)
    whole.hold("x", weights)
    numbers = np.ones(len(IDS[0]), np.int64)
    numbers[:6] = 0
    with torch.inference_mode(), whole.applied(numbers):
        expected = model(torch.tensor(IDS), use_cache=False).logits[0].log_softmax(-1)
    whole.close()
    base = whole_logprobs(model)
    assert float((expected - base).abs().max()) > 0.1
    parts = Parts(model, ranks)
    adapters = []
    for rank, part in enumerate(parts.models):
        held = Adapters(part, 1, 64, torch.nn.Module())
        held.hold("x", {n: lora_part(w, parts.cuts[0].get(n), rank) for n, w in weights.items()})
        adapters.append(held)
    assert float((parts.logprobs(adapters) - expected).abs().max()) <= TOLERANCE
    for held in adapters:
        held.close()
    assert float((parts.logprobs() - base).abs().max()) <= TOLERANCE


@pytest.mark.parametrize(
    ("cut", "parts"),
    [
        pytest.param(Cut(Style.COLUMNS, 8, 4), [(0, 2), (2, 4), (4, 6), (6, 8)], id="equal"),
        pytest.param(
            Cut(Style.JOINED_COLUMNS, 9, 4), [(0, 3), (3, 6), (6, 9), (9, 9)], id="a last one less"
        ),
        pytest.param(
            Cut(Style.COLUMNS, 16, 4, heads=2), [(0, 8), (0, 8), (8, 16), (8, 16)], id="shared"
        ),
    ],
)
def test_which_part_a_rank_has(cut: Cut, parts: list[tuple[int, int]]) -> None:
    found = [cut.part(rank) for rank in range(cut.ranks)]
    assert [(part.start, part.stop) for part in found] == parts
