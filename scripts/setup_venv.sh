#!/usr/bin/env bash
# Makes .venv from a bare Python >= 3.11 and a package index. Called by make; see `make venv`.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

python=${PYTHON:-}
if [ -z "$python" ]; then
    for candidate in python3 python3.13 python3.12 python3.11; do
        if is_new_enough "$candidate"; then python=$candidate; break; fi
    done
fi
[ -n "$python" ] || die "no Python >= 3.11 found; install one or set PYTHON=/path/to/python3"
is_new_enough "$python" || die "PYTHON=$python does not run, or is older than 3.11"

tool=.cache/uv-tool
if ! "$tool/bin/uv" --version >/dev/null 2>&1; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$python cannot make virtual environments (no ensurepip); on Debian and Ubuntu install python3-venv, or set PYTHON"
    say "getting uv from the package index into $tool (about 15 s)"
    rm -rf "$tool"
    "$python" -m venv "$tool"
    "$tool/bin/python" -m pip install --quiet --disable-pip-version-check \
        -c requirements/constraints.txt uv
fi

# shellcheck source=scripts/package_index.sh
. scripts/package_index.sh

# Only the interpreter chosen above: uv would otherwise download one.
export UV_PYTHON_DOWNLOADS=never
if ! .venv/bin/python -c '' 2>/dev/null; then
    say "making .venv with $("$python" -V)"
    "$tool/bin/uv" venv --quiet --clear --python "$python" .venv
fi
say "installing torch, transformers and the tools into .venv (1 to 5 minutes the first time, about 5 GB)"
started=$SECONDS
# Without compiled bytecode every first import of torch and transformers would take seconds longer.
"$tool/bin/uv" pip install --quiet --python .venv/bin/python --compile-bytecode \
    -c requirements/constraints.txt --group dev -e '.[operator,server,torch]'
touch .venv/.setup-done
say "done in $((SECONDS - started)) s"
