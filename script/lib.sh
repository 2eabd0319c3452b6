# Shared by the scripts in this folder: steps with their time, and the host's package manager.
# shellcheck shell=bash

PREFIX=${SAMPAN_PREFIX:-/opt/sampan}
COMMANDS=(sampan sampan-master sampan-agent sampan-netplugin)
CHANGED=0

die() { # message, what to do
    printf '\nerror: %s\n' "$1" >&2
    [ -z "${2:-}" ] || printf '       %s\n' "$2" >&2
    exit 1
}

# step TITLE COMMAND…: runs the command with its output kept back, prints one line, shows the output if it fails.
# The command prints what it found or did on file descriptor 3; exit code 10 means that nothing had to be done.
step() {
    local title=$1 started out note code
    shift
    started=$(date +%s%N)
    out=$(mktemp) note=$(mktemp)
    printf '%s … ' "$title"
    # Not in an || list: there the shell would go on after a failure within the command.
    set +e
    (set -e; "$@") >"$out" 2>&1 3>"$note"
    code=$?
    set -e
    local seconds
    seconds=$(awk -v a="$started" -v b="$(date +%s%N)" 'BEGIN { printf "%.1f", (b - a) / 1e9 }')
    if [ "$code" -ne 0 ] && [ "$code" -ne 10 ]; then
        printf 'failed (%s s)\n' "$seconds"
        tail -n 40 "$out" | sed 's/^/    /' >&2
        local hint
        hint=$(cat "$note")
        rm -f "$out" "$note"
        die "$title failed" "${hint:-see the output above}"
    fi
    local text
    text=$(tail -n 1 "$note")
    if [ "$code" -eq 10 ]; then
        text=${text:-nothing to do}
    else
        CHANGED=1
        text=${text:-done}
    fi
    rm -f "$out" "$note"
    printf '%s (%s s)\n' "$text" "$seconds"
}

unchanged() { printf '%s\n' "${1:-nothing to do}" >&3; exit 10; }
note() { printf '%s\n' "$1" >&3; }

need_root() {
    [ "$(id -u)" -eq 0 ] || die "$1 needs root" "run: sudo $1"
}

# The host's package manager: apt or dnf. It fails where there is neither; `case $(package_manager)` would not notice.
package_manager() {
    if command -v apt-get >/dev/null; then echo apt
    elif command -v dnf >/dev/null; then echo dnf
    else die "neither apt-get nor dnf is here" "install Docker Engine, iptables and Python 3.11 by hand, then run this again"
    fi
}

APT_UPDATED=${TMPDIR:-/tmp}/sampan-apt-updated.$$
# install_packages NAME…: installs what is not there yet.
install_packages() {
    local manager
    manager=$(package_manager) || return
    case $manager in
    apt)
        [ -e "$APT_UPDATED" ] || { apt-get update -q && touch "$APT_UPDATED"; }
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
        ;;
    dnf) dnf install -q -y "$@" ;;
    esac
}

has_systemd() { [ -d /run/systemd/system ]; }

docker_answers() { timeout 20 docker version >/dev/null 2>&1; }

# A Python that is new enough, or nothing.
find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
}

# make_environment FOLDER PYTHON: a virtual environment with pip. One that was made by half, or whose Python has gone
# with an upgrade of the system, is made anew.
make_environment() {
    "$1/bin/python" -m pip --version >/dev/null 2>&1 || "$2" -m venv --clear "$1"
}

# The hash of everything that an installation is made from, to see whether it is up to date.
source_hash() { # root of the checkout
    (cd "$1" && find pyproject.toml requirements.lock README.md script/build_hook.py script/definitions.py sampan master \
        agent netplugin systemd -type f ! -name '*.pyc' ! -name 'definitions.json.z' -print0 |
        sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1)
}
