#!/usr/bin/env bash
# A Debian of another architecture, to install a package in: tests/package/qemu_root.sh ARCHITECTURE DIR [COMMAND...]
# makes DIR such a system, clean, if it is none yet, and runs the command in it, under qemu's user emulation where this
# machine has another processor. The repository is /src in there, read by path only. Needs root or sudo.
#
# A made system is kept in ${XDG_CACHE_HOME:-~/.cache}/tidegate/debian-SUITE-ARCHITECTURE, and DIR is a copy of it.
# DEBIAN_SUITE: bookworm unless it says another.
set -euo pipefail
cd "$(dirname "$0")/../.."
. cross/debian.sh

arch=${1:?which architecture: amd64, arm64, armhf}
root=$(realpath -m "${2:?in which folder}")
shift 2
suite=${DEBIAN_SUITE:-bookworm}
kept=${XDG_CACHE_HOME:-$HOME/.cache}/tidegate/debian-$suite-$arch
case $arch in
amd64) emulated=x86_64 ;;
arm64) emulated=aarch64 ;;
armhf) emulated=arm ;;
*) echo "error: unknown architecture $arch (amd64, arm64, armhf)" >&2 && exit 2 ;;
esac

# Has the kernel start this architecture's programs by qemu, until the machine starts again. The emulator is opened
# now (F), so that it need not be in the root.
need_emulator() {
    local binfmt=/proc/sys/fs/binfmt_misc
    [ "$arch" != "$(dpkg --print-architecture)" ] || return 0
    command -v "qemu-$emulated-static" >/dev/null || install qemu-user-static
    [ -e "$binfmt/register" ] || as_root mount -t binfmt_misc binfmt_misc "$binfmt" ||
        { echo "error: no binfmt_misc in this kernel: programs for $arch cannot be started by name" >&2 && return 1; }
    [ -e "$binfmt/qemu-$emulated" ] || as_root tee "$binfmt/register" <"/usr/lib/binfmt.d/qemu-$emulated.conf" >/dev/null
}

make_kept() {
    local making=$kept.making
    [ -x /usr/sbin/debootstrap ] || install debootstrap
    echo "making a Debian $suite for $arch in $kept"
    mkdir -p "$(dirname "$kept")"
    as_root rm -rf "$making"
    # shellcheck disable=SC2046  # no mirror is no argument
    as_root debootstrap --arch="$arch" --variant=minbase --include=ca-certificates --foreign "$suite" "$making" $(mirror)
    # It mounts what it needs, and shall not leave that behind.
    as_root unshare --mount --fork bash -euc '
        mount --make-rprivate /
        exec chroot "$1" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive \
            /debootstrap/debootstrap --second-stage
    ' second "$making"
    share_network "$making"
    as_root mv "$making" "$kept"
}

need_emulator
if ! [ -e "$root/etc/debian_version" ]; then
    [ -e "$kept" ] || make_kept
    mkdir -p "$(dirname "$root")"
    as_root cp -a --reflink=auto "$kept" "$root"
fi
[ $# = 0 ] || enter_root "$root" "$PWD /src" -- "$@"
