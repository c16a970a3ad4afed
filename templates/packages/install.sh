# Installs $PACKAGES and records in $STATE what came with them. Runs with sh on the host.
set -eu
mkdir -p -m 755 "$STATE"
installed() { dpkg-query -W -f='${Package} ${db:Status-Status}\n' | awk '$2 == "installed" {print $1}' | sort; }
accounts() { getent "$1" | cut -d: -f1 | sort; }
new() { comm -13 "$2" "$3" | sort -u - "$STATE/$1.ours" -o "$STATE/$1.ours"; }
touch "$STATE/packages.ours" "$STATE/users.ours" "$STATE/groups.ours"
[ -e "$STATE/packages.before" ] || installed > "$STATE/packages.before"
[ -e "$STATE/lists.before" ] || ls /var/lib/apt/lists /var/cache/apt > "$STATE/lists.before"

work=$(mktemp -d)
guard=/usr/sbin/policy-rc.d
if [ -n "$KEEP_QUIET" ] && [ ! -e $guard ]; then
    printf '#!/bin/sh\n# Deskfleet: no daemon starts while a package is installed\nexit 101\n' > $guard
    chmod 755 $guard
fi
finish() {
    # Also after a failed installation: what did get in must be known.
    installed > "$work/packages.after"; accounts passwd > "$work/users.after"; accounts group > "$work/groups.after"
    new packages "$work/packages" "$work/packages.after"
    new users "$work/users" "$work/users.after"
    new groups "$work/groups" "$work/groups.after"
    if grep -qs '^# Deskfleet:' $guard; then rm -f $guard; fi
    rm -rf "$work"
}
installed > "$work/packages"; accounts passwd > "$work/users"; accounts group > "$work/groups"
trap finish EXIT
trap 'exit 143' TERM INT HUP

export DEBIAN_FRONTEND=noninteractive
get="apt-get -y -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 -o APT::Keep-Downloaded-Packages=false"
# A roll-out that died inside apt leaves packages unpacked.
[ -z "$(dpkg --audit)" ] || dpkg --configure -a
$get install --no-install-recommends $PACKAGES || { $get update && $get install --no-install-recommends $PACKAGES; }
