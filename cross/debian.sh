# shellcheck shell=bash
# What cross/build and the tests share: Debian roots, and the packages that this machine lacks. To be sourced. Makes and
# enters roots; never knows what is built or tested in them.

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "error: needs root or sudo for: $*" >&2
        return 1
    fi
}

# Whether packages can be installed here.
has_apt() {
    command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; }
}

install_packages() {
    echo "== installing $*"
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}

# The Debian mirror that this machine uses; nothing where it names none, then debootstrap knows one.
mirror() {
    grep -rhoE '^(URIs:|deb( \[[^]]*\])?) *https?://[^ ]+' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null |
        grep -oE 'https?://[^ ]+' | grep -E '/debian/?$' | head -n 1 || true
}

# ROOT: as this machine reaches its mirror, so shall the root: proxies, certificates, names.
share_network() {
    local file
    as_root mkdir -p "$1/etc/apt/apt.conf.d" "$1/etc/ssl/certs"
    { grep -ls Acquire /etc/apt/apt.conf.d/* || true; } | while read -r file; do
        as_root cp -L "$file" "$1/etc/apt/apt.conf.d/"
    done
    # A mirror may stand still at a date; its packages are signed all the same.
    echo 'Acquire::Check-Valid-Until "false";' | as_root tee "$1/etc/apt/apt.conf.d/90standing" >/dev/null
    as_root cp -L /etc/resolv.conf "$1/etc/resolv.conf"
    as_root cp -L --remove-destination /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/"
}

# ROOT SOURCE:TARGET... -- COMMAND...: runs it in the root, with folders of this machine mounted there. The mounts are
# seen by the command alone and end with it.
enter_root() {
    # shellcheck disable=SC2016  # the inner shell expands
    as_root unshare --mount --fork bash -euc '
        root=$1
        shift
        mount --make-rprivate /
        mount --rbind /dev "$root/dev"
        mount -t proc proc "$root/proc"
        while [ "$1" != -- ]; do
            IFS=: read -r source target <<<"$1"
            mkdir -p "$root$target"
            mount --bind "$source" "$root$target"
            shift
        done
        shift
        exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8 \
            DEBIAN_FRONTEND=noninteractive "$@"
    ' enter_root "$@"
}
