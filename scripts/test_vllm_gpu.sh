#!/usr/bin/env bash
# Tests of the vLLM engine on a machine with a GPU and vLLM installed: test_vllm_gpu.sh [FOLDER]
# Several engines at once on the first GPU, one log each in FOLDER. What all samplers share runs
# twice: in float32 without adapters, and the adapters' part in float16, because on a GPU vLLM
# computes adapters in 16 bits only.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
logs=${1:-$(mktemp -d)}
export PYTHONPATH=client:sampler_server:operator${PYTHONPATH:+:$PYTHONPATH}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
export PYTHONUNBUFFERED=1
shared=tests/contract/conformance
adapters="test_adapters or another_adapter"
names=() pids=()

job() { # job NAME DTYPE PATHS… -k WORDS: begin with it
    local name=$1 dtype=$2
    shift 2
    SAMPLER_TEST_DTYPE=$dtype timeout "${JOB_SECONDS:-1800}" \
        "$python" -m pytest -v -p no:cacheprovider ${PYTEST_INI:+-c "$PYTEST_INI"} --durations 6 \
        --durations-min 5 "$@" >"$logs/$name.log" 2>&1 &
    names+=("$name") pids+=($!)
}

# Together they would make the models at the same time, each for itself.
"$python" -m tests.tiny_models && "$python" -m tests.tiny_adapters || exit 1
wanted=" ${JOBS:-engine health start local remote local-adapters remote-adapters} "
is_wanted() { [[ "$wanted" == *" $1 "* ]]; }
is_wanted engine && job engine float32 tests/vllm/test_engine.py tests/vllm/test_raw.py
is_wanted health && job health float32 tests/vllm/test_health.py
is_wanted start && job start float32 tests/vllm/test_start.py
is_wanted local && job local float32 $shared -k "vllm and not remote and not ($adapters)"
is_wanted remote && job remote float32 $shared -k "remote-vllm and not ($adapters)"
is_wanted local-adapters && job local-adapters float16 $shared -k "vllm and not remote and ($adapters)"
is_wanted remote-adapters && job remote-adapters float16 $shared -k "remote-vllm and ($adapters)"

status=0
for index in "${!pids[@]}"; do
    wait "${pids[$index]}"
    code=$?
    printf '%s: exit %d: %s\n' "${names[$index]}" "$code" "$(tail -1 "$logs/${names[$index]}.log")"
    [ "$code" = 0 ] || status=1
done
exit "$status"
