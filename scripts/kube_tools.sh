#!/usr/bin/env bash
# Builds what .cache/kube-tools lacks of the programs in tests/kube_tools.py, with Go. kube_tools.sh [PROGRAM…]
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(python3 tests/kube_tools.py --folder)
if missing=$(python3 tests/kube_tools.py "$@"); then exit 0; fi
[ -n "$missing" ] # else it told what is wrong with it
if ! command -v go >/dev/null; then
    printf 'kube-tools: error: no %s in %s, and no Go >= 1.26 to build them with\n' "$missing" "$folder" >&2
    exit 1
fi

build() { # build PROGRAM MODULE-FOLDER PACKAGE MINUTES [link flags]
    printf 'kube-tools: building %s (about %s on 2 cores; what Go has built before is quick)\n' "$1" "$4"
    local started=$SECONDS
    # Renamed at the end, so that an interrupted build leaves nothing that looks like a program.
    (cd "tests/cluster/$2" && nice go build -trimpath -ldflags "-s -w ${5:-}" -o "$target/$1.part" "$3")
    mv "$target/$1.part" "$target/$1"
    printf 'kube-tools: %s took %d s\n' "$1" $((SECONDS - started))
}

pinned() { # pinned MODULE-FOLDER MODULE
    sed -nE "s|^\s*$2 v([^ ]+).*|\1|p" "tests/cluster/$1/go.mod"
}

mkdir -p "$folder"
target=$(cd "$folder" && pwd)
for program in $missing; do
    case $program in
    etcd)
        build etcd etcd go.etcd.io/etcd/server/v3 '1 minute'
        ;;
    coredns)
        build coredns coredns github.com/coredns/coredns '3 minutes'
        ;;
    helm)
        build helm helm helm.sh/helm/v3/cmd/helm '2 minutes' \
            "-X helm.sh/helm/v3/internal/version.version=v$(pinned helm helm.sh/helm/v3)"
        ;;
    *)
        if [ ! -x "$target/hyperkube" ]; then
            version=$(pinned hyperkube k8s.io/kubernetes)
            flags=""
            # Without these, nodes and `kubectl version` report a version that nothing can read.
            for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
                for setting in "gitVersion=v$version" gitMajor="${version%%.*}" \
                    gitMinor="$(cut -d. -f2 <<<"$version")" gitTreeState=clean "gitCommit=v$version"; do
                    flags="$flags -X $package.$setting"
                done
            done
            build hyperkube hyperkube . '8 minutes' "$flags"
        fi
        ln -sf hyperkube "$target/$program"
        ;;
    esac
done
