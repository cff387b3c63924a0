"""Tests of the vLLM engine: `make test-vllm`, in .venv-vllm. Elsewhere there is nothing to collect;
the tier is required where it is run by its name, so that this is no success."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("vllm") else ["test_*.py"]
