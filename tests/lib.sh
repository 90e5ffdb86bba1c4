# What the test scripts share: installing what is missing. To be sourced, in the project's top folder.

. cross/debian.sh

# COMMAND PACKAGE, in pairs: installs the packages whose command is missing.
need() {
    local missing=()
    while [ $# -gt 0 ]; do
        command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || missing+=("$2")
        shift 2
    done
    [ ${#missing[@]} = 0 ] && return
    install_packages "${missing[@]}"
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

# The release binary, in TIDEGATE; or what that names already.
need_release() {
    if [ -z "${TIDEGATE:-}" ]; then
        need_cargo
        need cc gcc
        cargo build --release --locked
        TIDEGATE=target/release/tidegate
    fi
    TIDEGATE=$(realpath "$TIDEGATE")
    export TIDEGATE
}

# Longer than any scenario's own bound: it ends what hangs in a place that the scenario cannot leave.
scenario_seconds_max=1300

# FOLDER SCENARIO...: runs the folder's Python scenarios and says `N passed, N failed`. Fails where one failed.
run_scenarios() {
    local folder=$1 passed=0 failed=0 scenario status
    shift
    export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
    TMPDIR=$(mktemp -d)
    export TMPDIR
    trap 'rm -rf "$TMPDIR"' EXIT
    for scenario in "$@"; do
        echo "== $folder: $scenario"
        status=0
        timeout --kill-after=10 "$scenario_seconds_max" target/venv/bin/python "tests/$folder/$scenario.py" 2>&1 |
            tee "$TMPDIR/output" || status=$?
        # The scenario's last line; one that does not come to it counts as a failure.
        if [[ $(tail -n 1 "$TMPDIR/output") =~ ^$scenario:\ ([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
            passed=$((passed + BASH_REMATCH[1]))
            failed=$((failed + BASH_REMATCH[2]))
        else
            failed=$((failed + 1))
            echo "== FAILED: $scenario ended with $status"
        fi
    done
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ]
}
