#!/usr/bin/env bash
# Runs pytest once per test tier and prints the time of each: run_tiers.sh "TIER…" [pytest arguments]
# A tier whose programs are missing is skipped; a tier named in REQUIRE_TIERS fails instead, also
# when it has no tests. So does a tier that needs three times its budget.
set -euo pipefail
cd "$(dirname "$0")/.."
TIMEFORMAT='   %1R s, with %1U s of CPU as user and %1S s as system'

budget() { # budget TIER: the seconds that it may take on 2 cores with nothing beside
    case $1 in
    unit | chart | docs) echo 90 ;;
    contract) echo 480 ;;
    api) echo 360 ;;
    e2e) echo 1200 ;;
    *) echo 600 ;;
    esac
}

workers() { # workers TIER: its tests run side by side, file by file, where they mostly wait
    local count
    case $1 in
    # Each of the four starts a control plane of its own, which costs less than the waiting does.
    api) count=4 ;;
    contract) count=3 ;;
    unit | vllm) count=2 ;;
    *) return ;;
    esac
    # Files in the order of tests/conftest.py: those that take long first.
    [ "$(nproc)" -lt 2 ] || printf -- '-n %d --dist loadfile --no-loadscope-reorder' "$count"
}

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

run_tests() { # run_tests TIER [pytest arguments]
    local tier=$1
    local tests=(.venv/bin/python -m pytest -q "tests/$tier")
    local side_by_side
    read -ra side_by_side <<<"$(workers "$tier")"
    shift
    # What all samplers share is run for this engine's too.
    if [ "$tier" = vllm ]; then
        # Engines that run side by side would otherwise all compute on the first core.
        tests=(env OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest -q tests/contract/conformance
            tests/vllm tests/contract/test_unprivileged.py -k vllm)
    fi
    time timeout --foreground --signal INT --kill-after 60 $((3 * $(budget "$tier"))) \
        "${tests[@]}" "${side_by_side[@]}" --durations 8 --durations-min 5 "$@"
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
    run_tests "$tier" "$@" || status=$?
    # 5: nothing selected, which is right for a tier without slow tests.
    if [ "$status" != 0 ] && { [ "$status" != 5 ] || is_required "$tier"; }; then
        failed="$failed $tier"
    fi
    if [ "$status" = 124 ]; then printf '== tests/%s: out of time\n' "$tier"; fi
    printf '== tests/%s took %d s, of %d\n' "$tier" $((SECONDS - started)) "$(budget "$tier")"
done
if [ -n "$failed" ]; then
    printf '\nfailed tiers:%s\n' "$failed" >&2
    exit 1
fi
