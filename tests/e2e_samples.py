"""Samples of a sim fleet on a real cluster, and what is wrong with them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sampler_api.results import Responses, Segment
from sampler_client import SamplingParams
from sampler_core.base import SamplerBase
from sampler_core.seeds import child_seed
from sampler_server.engines.sim.tokens import sim_sequence

__all__ = ["SimCall", "segments"]


@dataclass(frozen=True, slots=True)
class SimCall:
    """A call for ``samples`` sequences of each prompt, and what its answer must be;
    ``eos_rate`` is the fleet's."""

    prompts: Sequence[Sequence[int]]
    tokens: int
    samples: int = 4
    seed: int = 7
    eos_rate: float = 0.005

    @property
    def sequences(self) -> int:
        """How many are asked for."""
        return len(self.prompts) * self.samples

    def sample(self, sampler: SamplerBase) -> Responses:
        """The answer."""
        params = SamplingParams(max_tokens=self.tokens, seed=self.seed, logprobs=1)
        inputs: list[Any] = [{"input_ids": list(prompt)} for prompt in self.prompts]
        return sampler.sample(inputs, params, num_samples=self.samples)

    def differences(self, answer: Responses) -> Iterator[str]:
        """Sequences that are not what the engine gives when nothing disturbs it."""
        if len(answer) != len(self.prompts):
            yield f"{len(answer)} responses"
        for index, response in enumerate(answer):
            if len(response.sequences) != self.samples:
                yield f"input {index}: {len(response.sequences)} sequences"
            for child, sequence in enumerate(response.sequences):
                assert sequence.revision is not None
                wanted = self.wanted(index, child, sequence.revision.base)
                if sequence.tokens != wanted:
                    yield f"input {index}, child {child}: {sequence.tokens}, not {wanted}"

    def wanted(self, index: int, child: int, base: str) -> list[int]:
        """The tokens of one sequence, from the engine's own rule."""
        seed = child_seed(self.seed, index, child)
        prompt = list(self.prompts[index])
        tokens, _ = sim_sequence(prompt, seed, base, None, self.tokens, eos_rate=self.eos_rate)
        return list(tokens)


def segments(answer: Responses) -> list[Segment]:
    """Of all sequences."""
    return [segment for sequence in answer.sequences for segment in sequence.segments]
