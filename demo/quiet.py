"""transformers without its progress bars and notices, which would mix with the demo's own lines."""

from typing import Any

__all__ = ["silence_transformers"]


def silence_transformers() -> None:
    """For this process."""
    from transformers.utils import logging

    untyped: Any = logging
    untyped.set_verbosity_error()
    untyped.disable_progress_bar()
