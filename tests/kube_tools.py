"""The programs of a real Kubernetes that tests run, and where they are.

Each is looked for in ``KUBEBUILDER_ASSETS``, then in ``.cache/kube-tools/VERSION``, which
``make kube-tools`` fills; never on PATH, so that the version is the pinned one.
``python tests/kube_tools.py NAME…`` prints those that are missing.
"""

import os
import re
import sys
from pathlib import Path
from typing import Final

__all__ = ["CONTROL_PLANE", "kube_tool", "missing_tools"]

_ROOT: Final = Path(__file__).parent.parent
_GO_MOD: Final = _ROOT / "tests" / "cluster" / "hyperkube" / "go.mod"

CONTROL_PLANE: Final = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "helm",
)


def _folders() -> list[Path]:
    given = os.environ.get("KUBEBUILDER_ASSETS")
    version = re.search(r"^\s*k8s\.io/kubernetes v(\S+)$", _GO_MOD.read_text(), re.MULTILINE)
    assert version is not None, f"{_GO_MOD} pins no k8s.io/kubernetes"
    return [*([Path(given)] if given else []), _ROOT / ".cache" / "kube-tools" / version[1]]


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


if __name__ == "__main__":
    missing = missing_tools(tuple(sys.argv[1:]) or CONTROL_PLANE)
    print(*missing)
    sys.exit(bool(missing))
