"""What of a client's frame can run, decided before anything is begun. Pure."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sampler_api.errors import SamplerError
from sampler_api.frames import Submit

from .engines.base import EngineInfo
from .plans import Plan, check_output, check_prompt, check_scores

__all__ = ["Prompts", "output_problem"]

_SHARED_BYTES = 256 << 10


class Prompts:
    """The prompts of one frame as aligned arrays, and what is wrong with them.

    All ids are looked at in one go: a prompt is looked at by itself only when some id is wrong.
    """

    __slots__ = ("_arrays", "_info", "_is_clean", "_max_frame_bytes")

    def __init__(
        self,
        lengths: Sequence[int],
        columns: memoryview,
        info: EngineInfo,
        max_frame_bytes: int,
    ) -> None:
        ids = np.frombuffer(columns, np.int32, sum(lengths)).copy()
        # As unsigned, a negative id is beyond every vocabulary.
        self._is_clean = not len(ids) or int(ids.view(np.uint32).max()) < info.vocab_size
        self._info = info
        self._max_frame_bytes = max_frame_bytes
        # Slices keep the whole frame alive as long as its longest sequence.
        is_shared = ids.nbytes <= _SHARED_BYTES
        self._arrays: list[NDArray[np.int32]] = []
        at = 0
        for length in lengths:
            prompt = ids[at : at + length]
            self._arrays.append(prompt if is_shared else prompt.copy())
            at += length

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        return self._arrays[index]

    def problem(self, submit: Submit, plan: Plan) -> SamplerError | None:
        """Why this input cannot run here, whatever else does."""
        prompt = self._arrays[submit.prompt]
        problem: SamplerError | None = None
        if not self._is_clean or not 0 < len(prompt) < self._info.context_limit:
            problem = _error_of(check_prompt, prompt, self._info)
        if problem is None and plan.wants_scores and _comes_with_scores(submit):
            problem = _error_of(check_scores, plan, len(prompt), self._max_frame_bytes)
        return problem


def output_problem(
    output: NDArray[np.int32], prompt_length: int, info: EngineInfo
) -> SamplerError | None:
    """Why a sequence cannot go on behind these tokens."""
    return _error_of(check_output, output, prompt_length, info)


def _comes_with_scores(submit: Submit) -> bool:
    """The first child has them, unless it goes on behind tokens."""
    return any(child.child == 0 and not child.output_length for child in submit.children)


def _error_of(check: Callable[..., None], *args: object) -> SamplerError | None:
    try:
        check(*args)
    except SamplerError as error:
        return error
    return None
