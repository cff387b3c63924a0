"""What the demo shows: a table of samples with the weights and replicas that made them."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from sampler_api.results import SampledSequence

from .verdict import Sample, has_continued

__all__ = ["chosen_samples", "sample_table"]

_SHOWN_DIGITS = 8


def chosen_samples(
    samples: Sequence[Sample], killed: str, with_adapter: Sequence[int], number: int
) -> list[Sample]:
    """Half of each kind, base and adapter; those that went through the kill first."""
    ordered = sorted(
        samples, key=lambda s: (not has_continued(s.sequence, killed), s.child, s.input)
    )
    kinds = [
        [s for s in ordered if (s.input in with_adapter) is is_adapted]
        for is_adapted in (False, True)
    ]
    return [sample for kind in kinds for sample in kind[: number // 2]]


def sample_table(samples: Sequence[Sample], prompts: Sequence[str], adapter: str) -> Table:
    """A row per sample: prompt and completion, revision, where its tokens came from."""
    table = Table(title="Some of the samples", title_justify="left", show_lines=True)
    table.add_column("prompt, completion", ratio=5)
    table.add_column("weights", ratio=2, no_wrap=True)
    table.add_column("tokens from replica", ratio=3)
    for sample in samples:
        table.add_row(
            _text(prompts[sample.input], sample.sequence),
            _weights(sample.sequence, adapter),
            _segments(sample.sequence),
        )
    return table


def _text(prompt: str, sequence: SampledSequence) -> Text:
    words = " ".join((sequence.decoded or "").split())
    # sim draws bytes, which would upset the terminal.
    readable = "".join(letter if letter.isprintable() else "\N{MIDDLE DOT}" for letter in words)
    return Text.assemble((prompt, "bold"), "\n", readable)


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:_SHOWN_DIGITS]


def _weights(sequence: SampledSequence, adapter: str) -> Text:
    revision = sequence.revision
    if revision is None:
        return Text("unknown", "red")
    text = Text(f"base {_short(revision.base)}")
    if revision.adapter is not None:
        text.append(f"\n{adapter} {_short(revision.adapter)}", "magenta")
    return text


def _segments(sequence: SampledSequence) -> Text:
    text = Text()
    for segment in sequence.segments:
        port = segment.replica.rpartition(":")[2]
        style = "" if segment.ended == "finished" else "yellow"
        text.append(f"{segment.start:>2} to {segment.end:<2} :{port} {segment.ended}\n", style)
    text.rstrip()
    return text
