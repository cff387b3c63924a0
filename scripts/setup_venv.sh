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

# uv does not read pip's configuration, so what pip is told about the index is handed on, where uv
# has not been told itself. (`pip config get` reads one file only; the list has them all.)
pip_config=$("$tool/bin/python" -m pip --disable-pip-version-check config list)
pip_setting() {
    local section value
    for section in ':env:' install global; do # pip's own order
        value=$(sed -n "s/^$section\.$1='\(.*\)'\$/\1/p" <<<"$pip_config")
        if [ -n "$value" ]; then break; fi
    done
    printf '%s' "${value//\\n/ }" # pip lists several values of one name with line breaks
}
hand_on() { # hand_on UV_VARIABLE pip-setting
    [ -z "${!1:-}" ] || return 0
    local value
    value=$(pip_setting "$2")
    if [ -n "$value" ]; then export "$1=$value"; fi
}
if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then hand_on UV_DEFAULT_INDEX index-url; fi
if [ -z "${UV_INDEX:-}${UV_EXTRA_INDEX_URL:-}" ]; then hand_on UV_INDEX extra-index-url; fi
hand_on UV_FIND_LINKS find-links
hand_on UV_INSECURE_HOST trusted-host
hand_on SSL_CERT_FILE cert

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
