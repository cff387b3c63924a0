"""The engine without its thread: takes requests, steps, and gives deltas.

Everything here runs on one thread. A step that fails is repeated with one sequence at a time, so
that an error ends only the sequences that cause it.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sampler_api.errors import (
    AdapterCapacity,
    EngineDead,
    EngineFailed,
    InvalidRequest,
    ModelInvalid,
    SamplerError,
)

from ..base import Delta, EngineInfo, EngineProgress, EngineRequest, Finish, Weights
from .adapters import Adapters
from .check import MAX_LOGPROBS, fault_of, prove_attention
from .forward import Outcome, run_step
from .lora import LoraWeights
from .memory import KVMemory, SlabStore
from .model import load_model
from .options import TorchOptions
from .packing import copy_unpacked, pack_linears, unpack_linears
from .ranks.lead import Ranks
from .scheduler import Scheduler, Share
from .scores import PromptScorer
from .sequence import Sequence
from .weights import NewWeights

__all__ = ["TorchCore"]

_log = logging.getLogger(__name__)

_TOKENS_PER_SLOT = 1024
_CPU_SLAB_TOKENS = 4096
_SLAB_TOKENS = 32768
_SLABS = 8
"""Slabs that the budget is worth at least: each capacity in use holds one of its own."""
_CPU_PREFILL_TOKENS = 256
_PREFILL_TOKENS = 2048
_SCORED_VALUES = 1 << 25
"""Logits (tokens times vocabulary) that a chunk of a scored prompt may make: 128 MiB of float32."""


class TorchCore:
    """Loads the model, proves packed steps against it, then steps on request.

    With ``ranks`` it is the first of several, which hold a part of the model each.
    """

    def __init__(self, options: TorchOptions, ranks: Ranks | None = None) -> None:
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self._processor = options.logits_processor
        self._model = model = load_model(options) if ranks is None else ranks.load_model()
        is_cpu = model.device.type == "cpu"
        budget = options.kv_tokens or options.slots * _TOKENS_PER_SLOT
        limit = min(model.context_limit, options.context_limit or model.context_limit, budget)
        if limit < 2 or options.slots < 1:
            raise ModelInvalid(
                f"{options.slots} slots and {limit} tokens leave no room to generate"
            )
        slab_tokens = min(_CPU_SLAB_TOKENS if is_cpu else _SLAB_TOKENS, max(1, budget // _SLABS))
        make_store = SlabStore if ranks is None else ranks.make_store
        memory = KVMemory(model.shape, budget, slab_tokens, limit, make_store)
        prove_attention(model, memory)
        make_adapters = Adapters if ranks is None else ranks.make_adapters
        self.adapters = make_adapters(model.model, options.max_adapters, options.max_lora_rank)
        self._options = options
        self._is_packed = is_cpu and options.pack_weights
        if self._is_packed:
            pack_linears(model.model)
        if is_cpu and isinstance(options.model, (str, Path)):
            copy_unpacked(model.model)
        self._scheduler = Scheduler(
            memory,
            slots=options.slots,
            prefill_tokens=options.prefill_tokens
            or (_CPU_PREFILL_TOKENS if is_cpu else _PREFILL_TOKENS),
            scored_tokens=max(16, _SCORED_VALUES // model.vocabulary),
            batch_invariant=options.batch_invariant,
        )
        self._memory = memory
        self._sequences: dict[int, Sequence] = {}
        self._deltas: list[Delta] = []
        self._steps = 0
        self.info = EngineInfo(
            engine="torch",
            model=options.name or _name_of(options),
            vocab_size=model.vocabulary,
            context_limit=limit,
            slots=options.slots,
            kv_tokens=budget,
            eos_ids=model.eos_ids,
            base_digest=options.base_digest,
            max_logprobs=MAX_LOGPROBS,
            max_adapters=options.max_adapters,
            max_lora_rank=options.max_lora_rank,
        )

    @property
    def model(self) -> Any:
        """The transformers model."""
        return self._model.model

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def take(self, request: EngineRequest) -> None:
        """Queue a sequence, or answer with an error delta."""
        adapter = self.adapters.number(request.adapter)
        fault: SamplerError | None
        if request.key in self._sequences:
            fault = InvalidRequest(f"key: {request.key} is in use", "key")
        else:
            fault = fault_of(request, self.info.vocab_size, self.info.context_limit, adapter)
        if fault is not None:
            self._deltas.append(Delta(request.key, finish="error", error=fault))
            return
        sequence = Sequence(request, self.info.eos_ids, self.info.context_limit)
        sequence.adapter = adapter or 0
        if request.want_prompt_logprobs:
            sequence.scorer = PromptScorer(request.prompt_ids, request.params.prompt_logprobs or 0)
        elif sequence.drawn >= sequence.limit:
            self._deltas.append(Delta(request.key, finish="length"))
            return
        self._sequences[request.key] = sequence
        self._scheduler.add(sequence)

    def cancel(self, key: int) -> None:
        """End a sequence with an abort delta; a key that is not here has had its finish."""
        sequence = self._sequences.get(key)
        if sequence is not None:
            self._end(sequence, "abort")

    def hold(self, digest: str, weights: dict[str, LoraWeights]) -> None:
        """Make an adapter servable."""
        self.adapters.hold(digest, weights)

    def drop(self, digest: str) -> None:
        """Free an adapter; refused while a sequence uses it."""
        users = sum(s.request.adapter == digest for s in self._sequences.values())
        if users:
            raise AdapterCapacity(f"adapter {digest} is used by {users} sequences")
        self.adapters.drop(digest)

    def read_adapter(self, directory: Path) -> dict[str, LoraWeights]:
        """Read and check an adapter; safe on any thread."""
        return self.adapters.read(directory)

    def read_weights(self, weights: Weights) -> NewWeights:
        """Load new base weights beside the model; safe on any thread."""
        return self._model.read_weights(self._options, weights)

    def replace_weights(self, new: NewWeights) -> None:
        """Put new base weights in place, between two steps: all of them or, when it raises, none.

        Raises EngineFailed; EngineDead when it is a mixture, of which nothing may be served.
        """
        if self._sequences:
            self._model.forget_weights(new)
            raise EngineFailed(f"{len(self._sequences)} sequences run on the old weights")
        try:
            self._model.put_weights(new, is_packed=self._is_packed)
        except (RuntimeError, MemoryError) as error:
            raise EngineFailed(f"the weights could not be put in place: {error}") from error
        self.info = replace(self.info, base_digest=new.digest)

    def step(self) -> None:
        """One step of all sequences that run."""
        try:
            shares = self._scheduler.next_shares()
        except Exception as error:
            # Mostly no memory for a slab: what holds rows goes, what waits may find room.
            _log.exception("no step could be planned")
            for sequence in self._scheduler.running[:] or [self._scheduler.waiting[0]]:
                self._fail(sequence, f"{type(error).__name__}: {error}")
            shares = []
        if shares:
            try:
                self._run(shares)
            except EngineDead:
                raise
            except Exception:
                _log.exception("a step of %d sequences failed; repeating them alone", len(shares))
                self._run_alone(shares)
        self._steps += 1

    def deltas(self) -> list[Delta]:
        """What has come since the last call."""
        found, self._deltas = self._deltas, []
        return found

    def progress(self) -> EngineProgress:
        """Counters as of now."""
        running = self._scheduler.running
        return EngineProgress(
            steps=self._steps,
            running=len(running),
            waiting=len(self._scheduler.waiting),
            kv_tokens_used=sum(s.length for s in running),
            prefill={
                s.key: ((s.leader or s).stored, s.length) for s in running if not s.is_decoding
            },
        )

    def fail_all(self, error: SamplerError) -> None:
        """Answer every sequence with an error, touching nothing on the device."""
        for key in self._sequences:
            self._deltas.append(Delta(key, finish="error", error=error))
        self._sequences.clear()

    def close(self) -> None:
        """Abort what is unfinished, and leave a handed-in model as it came."""
        for sequence in list(self._sequences.values()):
            self._end(sequence, "abort")
        self.adapters.close()
        unpack_linears(self._model.model)
        self._model.give_back()

    def _run_alone(self, shares: list[Share]) -> None:
        for share in shares:
            sequence, count = share
            # An earlier one may have freed or moved it.
            if sequence.kv is None or sequence.missing < count:
                continue
            try:
                self._run([share])
            except EngineDead:
                raise
            except Exception as error:
                _log.exception("sequence %d failed", sequence.key)
                self._fail(sequence, f"{type(error).__name__}: {error}")

    def _run(self, shares: list[Share]) -> None:
        outcome = run_step(
            self._model,
            shares,
            self._scheduler.followers_of,
            self.adapters.applied,
            self._processor,
        )
        for sequence, count in shares:
            assert sequence.kv is not None
            before = sequence.stored
            sequence.kv.length = before + count
            if before < sequence.prompt_length <= sequence.stored:
                self._scheduler.release_followers(sequence)
        self._settle(outcome)
        for sequence, _ in shares:
            if (
                sequence.kv is not None
                and sequence.drawn >= sequence.limit
                and not sequence.missing
            ):
                # Scored only: the draw was left out.
                self._end(sequence, "length")

    def _settle(self, outcome: Outcome) -> None:
        drawn = outcome.drawn
        if drawn is None:
            return
        tokens = drawn.tokens.astype("<i4")
        logprobs = drawn.logprobs.astype("<f4")
        for row, sequence in enumerate(outcome.sequences):
            if not drawn.valid[row]:
                self._fail(sequence, "no token has a finite logit")
                continue
            token = int(tokens[row])
            finish = sequence.append(token)
            delta = Delta(sequence.key, tokens=tokens[row].tobytes())
            if sequence.params.logprobs is not None:
                delta.logprobs = logprobs[row].tobytes()
            top = drawn.top.get(row)
            if top is not None:
                delta.top_ids = top[0].astype("<i4").tobytes()
                delta.top_logprobs = top[1].astype("<f4").tobytes()
            self._end(sequence, finish, delta) if finish else self._send(sequence, delta)

    def _fail(self, sequence: Sequence, reason: str) -> None:
        if sequence.kv is not None:
            self._memory.wipe(sequence.kv)
        error = EngineFailed(f"the engine failed on this sequence: {reason}")
        self._end(sequence, "error", Delta(sequence.key, error=error))

    def _end(self, sequence: Sequence, finish: Finish, delta: Delta | None = None) -> None:
        delta = delta or Delta(sequence.key)
        delta.finish = finish
        del self._sequences[sequence.key]
        self._scheduler.remove(sequence)
        self._send(sequence, delta)

    def _send(self, sequence: Sequence, delta: Delta) -> None:
        scorer = sequence.scorer
        if scorer is not None and scorer.is_complete:
            delta.prompt = scorer.result()
            sequence.scorer = None
        self._deltas.append(delta)


def _name_of(options: TorchOptions) -> str:
    if isinstance(options.model, (str, Path)):
        return str(options.model)
    return type(options.model).__name__
