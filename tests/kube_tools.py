"""The programs of a real Kubernetes that tests run, and where they are.

Each is looked for in ``KUBEBUILDER_ASSETS``, then in ``.cache/kube-tools/VERSION``, which
``make kube-tools`` fills; never on PATH, so that the version is the pinned one.
``python3 tests/kube_tools.py [NAME…]`` prints those that are missing, ``--folder`` where they go.
"""

import os
import re
import sys
from pathlib import Path

__all__ = ["CONTROL_PLANE", "kube_tool", "missing_tools", "pinned_version"]

_ROOT = Path(__file__).parent.parent

CONTROL_PLANE = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "helm",
)


def pinned_version(folder: str, module: str) -> str:
    """The version of ``module`` that ``tests/cluster/FOLDER/go.mod`` requires, with its ``v``."""
    path = _ROOT / "tests" / "cluster" / folder / "go.mod"
    found = re.search(rf"^\s*{re.escape(module)} (v\S+)", path.read_text(), re.MULTILINE)
    assert found is not None, f"{path} requires no {module}"
    return found[1]


def kube_tool(name: str) -> Path:
    """Where program ``name`` is. Raises FileNotFoundError that says how to get it."""
    folders = _folders()
    for folder in folders:
        if os.access(folder / name, os.X_OK):
            return folder / name
    places = " or ".join(map(str, folders))
    raise FileNotFoundError(f"no {name} in {places}; `make kube-tools` builds it")


def missing_tools(names: tuple[str, ...] = CONTROL_PLANE) -> list[str]:
    """Those of ``names`` that are nowhere."""
    folders = _folders()
    return [name for name in names if not any(os.access(at / name, os.X_OK) for at in folders)]


def _own_folder() -> Path:
    version = pinned_version("hyperkube", "k8s.io/kubernetes").removeprefix("v")
    return _ROOT / ".cache" / "kube-tools" / version


def _folders() -> list[Path]:
    given = os.environ.get("KUBEBUILDER_ASSETS")
    return [*([Path(given)] if given else []), _own_folder()]


if __name__ == "__main__":
    if sys.argv[1:] == ["--folder"]:
        print(_own_folder())
    else:
        missing = missing_tools(tuple(sys.argv[1:]) or CONTROL_PLANE)
        print(*missing)
        sys.exit(bool(missing))
