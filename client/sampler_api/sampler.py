"""The interface that every sampler implements: in-process engines and the client of a fleet
alike."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from .params import SamplingParams
from .results import Responses
from .revisions import AdapterRevision
from .types import Input

__all__ = ["Sampler"]


class Sampler(ABC):
    """Twinkle's sampler interface: sample, register an adapter, set the template."""

    @abstractmethod
    def sample(
        self,
        inputs: Input | Sequence[Input],
        sampling_params: SamplingParams | Mapping[str, Any] | None = None,
        adapter_name: str = "",
        *,
        num_samples: int = 1,
        adapter_path: str | None = None,
        use_base_model: bool = False,
        group_key: str | Sequence[str] | None = None,
        session_key: str | None = None,
        on_error: str = "raise",
        progress: bool = False,
    ) -> Responses:
        """Sample ``num_samples`` completions of every input; one response per input, in order.

        ``adapter_name=""`` and ``use_base_model=True`` are the base model; ``None`` is refused.
        With ``on_error="raise"`` the error of the first failed input is raised after all others
        have finished; it carries ``errors`` and ``responses``. With ``"return"`` a failed input has
        ``stop_reason="error"``.
        """

    @abstractmethod
    def add_adapter_to_model(
        self, adapter_name: str, config_or_dir: Any, **kwargs: Any
    ) -> AdapterRevision:
        """Bind ``adapter_name`` to the adapter in a directory, or to a new zero adapter of a PEFT
        config.

        The bytes are taken before this returns. Raises AdapterInvalid, AdapterUnsupported,
        AdapterCapacity.
        """

    @abstractmethod
    def set_template(self, template_cls: Any, **kwargs: Any) -> None:
        """Set the chat template: a class, an instance, a registered class name, or a model id or
        path."""
