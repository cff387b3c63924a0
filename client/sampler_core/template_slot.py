"""The one template of a sampler: set by the caller, or made of the served model's tokenizer."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from .template import Template, resolve_template

__all__ = ["TemplateSlot"]


class TemplateSlot:
    """Holds a template; thread-safe. ``files`` gives the served model's tokenizer files, and may
    block."""

    def __init__(self, files: Callable[[], Mapping[str, bytes]]) -> None:
        self._files = files
        self._template: Any = None
        self._has_none = False
        """The served model has no tokenizer."""
        self._lock = threading.Lock()

    @property
    def loaded(self) -> Any:
        """The template if it is there already, else ``None``; never blocks."""
        return self._template

    @property
    def template(self) -> Any:
        """The template; ``None`` when none was set and the model has no tokenizer."""
        with self._lock:
            if self._template is None and not self._has_none:
                files = self._files()
                if files:
                    self._template = Template.from_files(files)
                else:
                    self._has_none = True
            return self._template

    def set(self, template_cls: Any, kwargs: Mapping[str, Any]) -> None:
        """See ``Sampler.set_template``. Raises InvalidRequest."""
        template = resolve_template(template_cls, files=self._files, **kwargs)
        self.put(template)

    def put(self, template: Any) -> None:
        """Use this template; ``None`` goes back to the model's own."""
        with self._lock:
            self._template = template
