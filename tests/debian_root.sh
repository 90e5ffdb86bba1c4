#!/usr/bin/env bash
# A Debian to boot or to install packages in: `tests/debian_root.sh [SUITE [ARCHITECTURE]]` makes it where it is missing
# (bookworm for amd64; needs root and a mirror) and prints its folder. It is a cache that several tests share: nobody
# changes it. Whoever needs to write lays an overlay on it, or copies it. One for amd64 has systemd; those for others,
# which this machine has to be able to run (cross/emulate), are a container's: minimal.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/lib.sh
. cross/debian.sh

suite=${1:-bookworm} arch=${2:-amd64}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tidegate
root=$cache/debian-root-$arch
[ "$suite" = bookworm ] || root+=-$suite
# What is more than a minimal Debian: an init, its bus, a tool for serial lines, and what our package depends on. Whoever
# changes these lines has the roots made anew.
case $arch in
amd64) packages=systemd-sysv,dbus,socat,ca-certificates ;;
*) packages=adduser,ca-certificates ;;
esac
made=$root/.tidegate-root

mkdir -p "$cache"
exec 9>"$root.lock"
flock 9
if [ "$(cat "$made" 2>/dev/null)" != "$suite $packages" ]; then
    need debootstrap debootstrap >&2
    rm -rf "${root:?}" "$root.new"
    echo "== making $root" >&2
    # shellcheck disable=SC2046 # no mirror, no argument
    debootstrap --arch="$arch" --variant=minbase --include="$packages" "$suite" "$root.new" $(mirror) >"$root.log" 2>&1 </dev/null || {
        tail -n 3 "$root.log" >&2
        exit 1
    }
    rm -f "$root.new"/var/cache/apt/archives/*.deb
    echo "$suite $packages" >"$root.new/.tidegate-root"
    mv "$root.new" "$root"
fi
echo "$root"
