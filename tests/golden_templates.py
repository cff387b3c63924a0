"""Golden pod templates: a spec beside the template that a layout has always made of it.

``python -m tests.golden_templates`` writes the templates that are missing, none that is there.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from sampler_operator.pod import LAYOUTS
from sampler_operator.spec import SamplerDeployment
from sampler_operator.spec.parse import parse

__all__ = ["GOLDEN", "IMAGE", "Golden"]

IMAGE: Final = "registry.example/default:1"
_FOLDER: Final = Path(__file__).parent / "golden"


@dataclass(frozen=True, slots=True)
class Golden:
    """A spec, and the layout of its template."""

    layout: int
    name: str

    def __str__(self) -> str:
        return f"layout {self.layout}, {self.name}"

    def _file(self, kind: str) -> Path:
        return _FOLDER / f"template-{self.layout}" / f"{self.name}.{kind}"

    @property
    def sd(self) -> SamplerDeployment:
        """The SamplerDeployment."""
        return parse(
            {
                "apiVersion": "sampler.dev/v1alpha1",
                "kind": "SamplerDeployment",
                "metadata": {"name": "fleet", "namespace": "rl", "uid": "5f1c"},
                "spec": yaml.safe_load(self._file("yaml").read_text()),
            }
        )

    @property
    def template(self) -> Any:
        """The template as it was when the layout was released."""
        return json.loads(self._file("json").read_text())

    def built(self) -> dict[str, Any]:
        """The template as it is built now."""
        return LAYOUTS[self.layout](self.sd, IMAGE)

    def write(self) -> None:
        """Write the template, if there is none."""
        if not self._file("json").exists():
            self._file("json").write_text(f"{json.dumps(self.built(), indent=2, sort_keys=True)}\n")


GOLDEN: Final = tuple(
    Golden(int(folder.name.removeprefix("template-")), spec.stem)
    for folder in sorted(_FOLDER.glob("template-*"))
    for spec in sorted(folder.glob("*.yaml"))
)

if __name__ == "__main__":
    for golden in GOLDEN:
        golden.write()
