"""Tests of this folder run against a real Kubernetes API server; see ``tests.apiserver``."""

from tests.apiserver import api_server, namespace, nodes

__all__ = ["api_server", "namespace", "nodes"]
