# What the test scripts share: installing what is missing. To be sourced, in the project's top folder.

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "$0: needs root or sudo for: $*" >&2
        return 1
    fi
}

# COMMAND PACKAGE, in pairs: installs the packages whose command is missing.
need() {
    local missing=()
    while [ $# -gt 0 ]; do
        command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || missing+=("$2")
        shift 2
    done
    [ ${#missing[@]} = 0 ] && return
    echo "== installing ${missing[*]}"
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# The Python packages of tests/requirements.txt; again only when that file changed.
need_venv() {
    local venv=target/venv
    cmp -s tests/requirements.txt "$venv/installed.txt" && return
    python3 -c 'import ensurepip, venv' 2>/dev/null || need no-such-command python3-venv
    echo "== making $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q -r tests/requirements.txt
    cp tests/requirements.txt "$venv/installed.txt"
}

need_cargo() {
    command -v cargo >/dev/null && return
    echo "$0: needs Rust (cargo is not in PATH)" >&2
    return 1
}
