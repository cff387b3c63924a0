# To be sourced: hands what pip is told about the package index on to uv, which does not read pip's
# configuration. What uv has been told itself stays.
# shellcheck shell=bash

pip_config=$(.cache/uv-tool/bin/python -m pip --disable-pip-version-check config list)

pip_setting() { # pip_setting NAME: `pip config get` reads one file only; the list has them all
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
