# Installs $PACKAGES (names, or paths of files) with apt's $OPTIONS and records in $STATE what comes with them.
# Runs with sh on the host.
set -eu
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
mkdir -p -m 755 "$STATE"
installed() { dpkg-query -W -f='${Package} ${db:Status-Status}\n' | awk '$2 == "installed" {print $1}' | sort -u; }
# Those of people begin at 1000 (adduser.conf); no package makes such.
accounts() { getent "$1" | awk -F: '$3 < 1000 {print $1}' | sort; }
record() { sort -u - "$STATE/$1.ours" > "$STATE/$1.new" && mv -fT "$STATE/$1.new" "$STATE/$1.ours"; }
once() { [ -e "$STATE/$1" ] || { cat > "$STATE/$1.new" && mv -fT "$STATE/$1.new" "$STATE/$1"; }; }
touch "$STATE/packages.ours" "$STATE/users.ours" "$STATE/groups.ours"
installed | once packages.before
ls /var/lib/apt/lists /var/cache/apt | once lists.before

work=$(mktemp -d)
guard=/usr/sbin/policy-rc.d
if [ -n "$KEEP_QUIET" ] && [ ! -e $guard ]; then
    printf '#!/bin/sh\n# Deskfleet: no daemon starts while a package is installed\nexit 101\n' > $guard
    chmod 755 $guard
fi
finish() {
    # Also after a failed installation: what did get in must be known.
    for kind in passwd group; do accounts $kind > "$work/$kind.after"; done
    comm -13 "$work/passwd" "$work/passwd.after" | record users
    comm -13 "$work/group" "$work/group.after" | record groups
    if grep -qs '^# Deskfleet:' $guard; then rm -f $guard; fi
    rm -rf "$work"
}
for kind in passwd group; do accounts $kind > "$work/$kind"; done
trap finish EXIT
trap 'exit 143' TERM INT HUP

get="apt-get -y -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 -o APT::Keep-Downloaded-Packages=false"
install="install --no-install-recommends ${OPTIONS-} $PACKAGES"
# What apt plans to bring, noted before it does: a roll-out that dies inside apt knows it too, and what others install
# meanwhile is not taken for ours. "Inst name [version] …" is an upgrade of what was there.
bring() {
    apt-get -s -q $install > "$work/plan" || return 1
    awk '$1 == "Inst" && $3 !~ /^\[/ {sub(/:.*/, "", $2); print $2}' "$work/plan" | record packages || return 1
    $get $install
}
# A roll-out that died inside apt leaves packages unpacked, and dpkg's journal; or apt still goes on without it, and
# is waited for as long as apt itself waits.
mend() {
    for _ in $(seq 120); do
        if dpkg --configure -a 2> "$work/said"; then return; fi
        grep -q 'locked by another process' "$work/said" || break
        sleep 1
    done
    cat "$work/said" >&2
    return 1
}
[ -z "$(dpkg --audit; ls /var/lib/dpkg/updates)" ] || mend
bring || { $get update && bring; }
