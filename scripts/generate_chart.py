"""Writes what is made of the CRD and of values.schema.yaml: ``python -m scripts.generate_chart``.

In charts/sampler-operator: values.schema.json, values.yaml, the table in README.md and
templates/crd.yaml. With helm, also manifests/install.yaml, which is the chart rendered.
"""

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from tests.kube_tools import kube_tool, pinned_version

from sampler_operator.schema.crd import crd_yaml

__all__ = ["CHART", "INSTALL", "crd_template", "files", "install_yaml", "leaves"]

_ROOT: Final = Path(__file__).parent.parent
CHART: Final = _ROOT / "charts" / "sampler-operator"
INSTALL: Final = _ROOT / "manifests" / "install.yaml"

_WIDTH: Final = 100
_NAMESPACE: Final = "sampler-system"
_MARKS: Final = ("<!-- values: made by `make generate` -->\n", "<!-- end of values -->\n")
_HEADER: Final = "# Made by `make generate` from {source}; change it there.\n"
_RESTRICTED: Final = {"pod-security.kubernetes.io/enforce": "restricted"}

Schema = dict[str, Any]


def files() -> dict[Path, str]:
    """What is made without helm."""
    schema: Schema = yaml.safe_load((CHART / "values.schema.yaml").read_text())
    readme = CHART / "README.md"
    return {
        CHART / "values.schema.json": json.dumps(schema, indent=2) + "\n",
        CHART / "values.yaml": _values(schema),
        CHART / "templates" / "crd.yaml": crd_template(crd_yaml()),
        readme: _between_marks(readme.read_text(), _table(schema)),
    }


def leaves(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every value that can be set, with its path: what has properties is no value itself."""
    for name, part in schema["properties"].items():
        where = f"{path}.{name}" if path else name
        if "properties" in part:
            yield from leaves(part, where)
        else:
            yield where, part


def crd_template(crd: str) -> str:
    """The CRD as a template. Its text is kept: helm's own YAML would rewrite large numbers."""
    header, _, body = crd.partition("apiVersion:")
    # As a comment of YAML it would be rendered, an object of nothing, where the CRD is not.
    head, name, rest = re.split(
        r"(?m)^metadata:\n  name: (\S+)\n", "apiVersion:" + body, maxsplit=1
    )
    if "{{" in rest:
        raise ValueError("the CRD has {{, which helm would take for its own")
    keep = '(dict "helm.sh/resource-policy" "keep")'
    return (
        f"{{{{- /* {header.removeprefix('#').strip()} */}}}}\n"
        f"{{{{- if .Values.crds.install }}}}\n"
        f"{{{{- $annotations := ternary {keep} (dict) .Values.crds.keep }}}}\n"
        f"{head}metadata:\n"
        f'  {{{{- include "sampler-operator.metadata" (dict "context" . "name" "{name}"'
        f' "annotations" $annotations) | nindent 2 }}}}\n'
        f"{rest}{{{{- end }}}}\n"
    )


def install_yaml() -> str:
    """The chart for clusters without helm. Raises FileNotFoundError without it here."""
    words = ("template", "sampler-operator", str(CHART), "--namespace", _NAMESPACE)
    # Without a cluster helm believes in an old one.
    version = ("--kube-version", pinned_version("hyperkube", "k8s.io/kubernetes"))
    options = (*version, "--skip-tests", "--set", "crds.keep=false")
    done = subprocess.run(
        (str(kube_tool("helm")), *words, *options), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"helm {' '.join(words)}:\n{done.stderr}")
    # Who applies this has no release, and no chart.
    foreign = r"(?m)^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n|^# Source: .*\n"
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": _NAMESPACE, "labels": _RESTRICTED},
    }
    header = _HEADER.format(source="charts/sampler-operator")
    return header + yaml.safe_dump(namespace) + re.sub(foreign, "", done.stdout)


def _values(schema: Schema) -> str:
    source = _HEADER.format(source="values.schema.yaml")
    return source + "\n" + "\n".join(_described(schema, ""))


def _described(schema: Schema, indent: str) -> Iterator[str]:
    """One text a property: its description as a comment, then its default."""
    for name, part in schema["properties"].items():
        comment = textwrap.fill(
            " ".join(part["description"].split()),
            width=_WIDTH,
            initial_indent=f"{indent}# ",
            subsequent_indent=f"{indent}# ",
            break_on_hyphens=False,
        )
        if "properties" in part:
            inner = "".join(_described(part, indent + "  "))
            yield f"{comment}\n{indent}{name}:\n{inner}"
        else:
            text = yaml.safe_dump({name: part["default"]}, sort_keys=False)
            yield f"{comment}\n{textwrap.indent(text, indent)}"


def _table(schema: Schema) -> str:
    head = "| value | default | what it is |\n|---|---|---|\n"
    return head + "".join(_rows(schema, ""))


def _rows(schema: Schema, path: str) -> Iterator[str]:
    """One a property; a group's stands above those of its parts."""
    for name, part in schema["properties"].items():
        text = " ".join(part["description"].split())
        if "properties" in part:
            yield f"| **`{path}{name}`** | | {text} |\n"
            yield from _rows(part, f"{path}{name}.")
        else:
            default = json.dumps(part["default"], separators=(",", ":"))
            choice = f" One of {', '.join(part['enum'])}." if "enum" in part else ""
            yield f"| `{path}{name}` | `{default}` | {text}{choice} |\n"


def _between_marks(text: str, table: str) -> str:
    before, _, rest = text.partition(_MARKS[0])
    _, end, after = rest.partition(_MARKS[1])
    if not end:
        raise ValueError(f"{CHART / 'README.md'} lacks the lines {''.join(_MARKS)}")
    return f"{before}{_MARKS[0]}{table}{end}{after}"


def _main() -> None:
    made = files()
    for path, text in made.items():
        path.write_text(text)
    try:
        INSTALL.write_text(install_yaml())
    except FileNotFoundError as error:
        print(f"manifests/install.yaml stays as it is: {error}", file=sys.stderr)


if __name__ == "__main__":
    _main()
