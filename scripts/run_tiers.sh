#!/usr/bin/env bash
# Runs pytest once per test tier and prints the time of each: run_tiers.sh "TIER…" [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."

tiers=$1
shift
failed=""
for tier in $tiers; do
    [ -n "$(find "tests/$tier" -name 'test_*.py' -print -quit 2>/dev/null)" ] || continue
    printf '\n== tests/%s\n' "$tier"
    started=$SECONDS
    status=0
    .venv/bin/python -m pytest -q "tests/$tier" "$@" || status=$?
    # 5: nothing selected, which is right for a tier without slow tests.
    if [ "$status" != 0 ] && [ "$status" != 5 ]; then failed="$failed $tier"; fi
    printf '== tests/%s took %d s\n' "$tier" $((SECONDS - started))
done
if [ -n "$failed" ]; then
    printf '\nfailed tiers:%s\n' "$failed" >&2
    exit 1
fi
