#!/usr/bin/env bash
# Runs pytest once per test tier and prints the time of each: run_tiers.sh "TIER…" [pytest arguments]
# A tier whose programs are missing is skipped; a tier named in REQUIRE_TIERS fails instead, also
# when it has no tests.
set -euo pipefail
cd "$(dirname "$0")/.."

is_required() { [[ " ${REQUIRE_TIERS:-} " == *" $1 "* ]]; }

missing_tools() { # missing_tools TIER: what its tests run and nobody has built
    case $1 in
    api) .venv/bin/python tests/kube_tools.py ;;
    chart) .venv/bin/python tests/kube_tools.py helm ;;
    e2e) .venv/bin/python tests/cluster/requirements.py --tier ;;
    esac
}

prepare() { # prepare TIER: what takes longer than a test may, once
    case $1 in
    e2e) [ -n "${E2E_KUBECONFIG:-}" ] || .venv/bin/python -m tests.cluster.images ;;
    esac
}

tiers=$1
shift
failed=""
for tier in $tiers; do
    if [ -z "$(find "tests/$tier" -name 'test_*.py' -print -quit 2>/dev/null)" ]; then
        if is_required "$tier"; then
            printf '\n== tests/%s is required and has no tests\n' "$tier"
            failed="$failed $tier"
        fi
        continue
    fi
    if ! missing=$(missing_tools "$tier"); then
        if is_required "$tier"; then
            verdict=failed
            failed="$failed $tier"
        else
            verdict=skipped
        fi
        maker=kube-tools
        if [ "$tier" = e2e ]; then maker=cluster-tools; fi
        printf '\n== tests/%s %s: no %s; run `make %s`\n' "$tier" "$verdict" "${missing// /, }" "$maker"
        continue
    fi
    printf '\n== tests/%s\n' "$tier"
    started=$SECONDS
    status=0
    prepare "$tier"
    .venv/bin/python -m pytest -q "tests/$tier" "$@" || status=$?
    # 5: nothing selected, which is right for a tier without slow tests.
    if [ "$status" != 0 ] && { [ "$status" != 5 ] || is_required "$tier"; }; then
        failed="$failed $tier"
    fi
    printf '== tests/%s took %d s\n' "$tier" $((SECONDS - started))
done
if [ -n "$failed" ]; then
    printf '\nfailed tiers:%s\n' "$failed" >&2
    exit 1
fi
