"""The CustomResourceDefinition of ``SamplerDeployment``."""

from typing import Any

import yaml

from .. import names
from ..spec.deployment import OBJECT_RULES, SamplerDeployment, SamplerDeploymentSpec
from ..spec.status import SamplerDeploymentStatus
from .structural import Schema, structural, validations

__all__ = ["crd", "crd_yaml"]

_HEADER = "# Made by `make generate` from operator/sampler_operator/spec; change it there.\n"


def _ready(part: str) -> str:
    return f'.status.conditions[?(@.type=="Ready")].{part}'


# Name, where it is from, what it says, and whether only `-o wide` shows it.
_COLUMNS = (
    ("Ready", _ready("status"), "Whether enough replicas serve.", False),
    ("Replicas", ".status.summary", "Pods that serve, of those that are wanted.", False),
    ("Engine", ".status.engine", "What generates.", False),
    ("TP", ".spec.tensorParallelSize", "GPUs that hold one copy of the model.", False),
    ("Model", ".spec.model.uri", "The base model.", False),
    ("Adapters", ".status.adaptersSummary", "Declared adapters that every replica holds.", False),
    ("Age", ".metadata.creationTimestamp", "Since when it exists.", False),
    ("Reason", _ready("reason"), "Why it is ready or not.", True),
    ("Message", _ready("message"), "Why, and what to do.", True),
    ("Image", ".status.image", "The container image.", True),
)
_TYPES = {"Age": "date", "TP": "integer"}


def crd() -> dict[str, Any]:
    """The manifest that is applied to a cluster."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.SINGULAR,
                "shortNames": [names.SHORT_NAME],
                "categories": ["all"],
            },
            "scope": "Namespaced",
            "versions": [_version()],
        },
    }


def crd_yaml() -> str:
    """The manifest as the file that is committed."""
    return _HEADER + yaml.safe_dump(crd(), sort_keys=False, width=100, allow_unicode=True)


def _version() -> dict[str, Any]:
    return {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [
            {
                "name": name,
                "type": _TYPES.get(name, "string"),
                "description": description,
                "jsonPath": path,
                **({"priority": 1} if is_wide else {}),
            }
            for name, path, description, is_wide in _COLUMNS
        ],
        "schema": {"openAPIV3Schema": _object()},
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
    }


def _object() -> Schema:
    """The object around spec and status; API servers add the rest of metadata themselves."""
    return {
        "description": SamplerDeployment.__doc__,
        "type": "object",
        "required": ["spec"],
        "x-kubernetes-validations": validations(OBJECT_RULES),
        "properties": {
            "apiVersion": {"description": "Group and version of this schema.", "type": "string"},
            "kind": {"description": "SamplerDeployment.", "type": "string"},
            # Rules may name its field only if the schema has it.
            "metadata": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 253}},
            },
            "spec": structural(SamplerDeploymentSpec),
            "status": structural(SamplerDeploymentStatus),
        },
    }
