"""A backend without an engine: keeps the groups that it gets, and ends them when it is told to."""

from collections.abc import Mapping, Sequence

from sampler_api.frames import ABORT, LENGTH, ModelCard, RevisionRef
from sampler_core.groups import Group

__all__ = ["RecordingBackend"]


class RecordingBackend:
    """Implements ``sampler_core.groups.Backend``; with ``answers`` groups end at once, empty."""

    def __init__(
        self, *, answers: bool = True, tokenizer: Mapping[str, bytes] | None = None
    ) -> None:
        self.groups: list[Group] = []
        self.cancelled: list[Group] = []
        self.ensured: list[RevisionRef] = []
        self.is_closed = False
        self._answers = answers
        self._tokenizer = tokenizer or {}

    @property
    def is_ready(self) -> bool:
        return True

    def card(self) -> ModelCard:
        return ModelCard(
            model="fake",
            engine="fake",
            base="sha256:" + "0" * 64,
            tokenizer=None,
            vocab_size=1024,
            context_limit=2048,
            eos_ids=(2,),
            logprobs_modes=("processed", "raw"),
            max_logprobs=1024,
        )

    def tokenizer_files(self) -> Mapping[str, bytes]:
        return self._tokenizer

    def submit(self, groups: Sequence[Group]) -> None:
        self.groups += groups
        if self._answers:
            for group in groups:
                self.end(group)

    def end(self, group: Group, flag: int = LENGTH) -> None:
        """End every child of a group."""
        for child in group.children:
            group.end_child(child, flag)

    def cancel(self, groups: Sequence[Group]) -> None:
        self.cancelled += groups
        for group in groups:
            self.end(group, ABORT)

    def create_adapter(self, config: Mapping[str, object]) -> str:
        return "sha256:" + "1" * 64

    def ensure_adapter(self, ref: RevisionRef) -> None:
        self.ensured.append(ref)

    def close(self) -> None:
        self.is_closed = True
