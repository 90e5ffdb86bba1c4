#!/usr/bin/env bash
# A Debian with systemd to boot or to install packages in: `tests/debian_root.sh [SUITE]` makes it where it is missing
# (bookworm, or SUITE; needs root and a mirror) and prints its folder. It is a cache that several tests share: nobody
# changes it. Whoever needs to write lays an overlay on it, or copies it.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/lib.sh

suite=${1:-bookworm}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tidegate
root=$cache/debian-root-amd64
[ "$suite" = bookworm ] || root+=-$suite
# What is more than a minimal Debian: an init, its bus, and a tool for serial lines. Whoever changes this line has the
# roots made anew.
packages=systemd-sysv,dbus,socat,ca-certificates
made=$root/.tidegate-root

# The Debian mirror that this machine uses; nothing where it names none, then debootstrap knows one.
mirror() {
    grep -rhoE '^(URIs:|deb( \[[^]]*\])?) *https?://[^ ]+' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null |
        grep -oE 'https?://[^ ]+' | grep -E '/debian/?$' | head -n 1 || true
}

mkdir -p "$cache"
exec 9>"$root.lock"
flock 9
if [ "$(cat "$made" 2>/dev/null)" != "$suite $packages" ]; then
    need debootstrap debootstrap >&2
    rm -rf "${root:?}" "$root.new"
    echo "== making $root" >&2
    # shellcheck disable=SC2046 # no mirror, no argument
    debootstrap --arch=amd64 --variant=minbase --include="$packages" "$suite" "$root.new" $(mirror) >"$root.log" 2>&1 </dev/null || {
        tail -n 3 "$root.log" >&2
        exit 1
    }
    rm -f "$root.new"/var/cache/apt/archives/*.deb
    echo "$suite $packages" >"$root.new/.tidegate-root"
    mv "$root.new" "$root"
fi
echo "$root"
