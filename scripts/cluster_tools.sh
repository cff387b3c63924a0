#!/usr/bin/env bash
# Installs what tests/cluster/requirements.py finds missing: packages of Debian, and with Go the
# programs of Kubernetes. What no package brings is told.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=$(python3 tests/cluster/requirements.py --packages)
if [ -n "$packages" ]; then
    if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
        printf 'cluster-tools: error: install these packages (names of Debian): %s\n' "$packages" >&2
        exit 1
    fi
    printf 'cluster-tools: installing %s\n' "$packages"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086 # several words
    apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi
if ! missing=$(python3 tests/cluster/requirements.py); then
    printf 'cluster-tools: error: a cluster on this machine needs %s\n' "$missing" >&2
    exit 1
fi
# shellcheck disable=SC2046 # several words
scripts/kube_tools.sh $(python3 tests/cluster/requirements.py --kube-tools)
