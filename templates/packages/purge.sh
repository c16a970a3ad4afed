# Purges what packages.ours names. Runs with sh on the host.
set -eu
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
# Recorded, still there in whatever state, and not there before our first installation.
ours() {
    dpkg-query -W -f='${Package} ${db:Status-Status}\n' | awk '$2 != "not-installed" {print $1}' | sort -u |
        grep -Fx -f "$STATE/packages.ours" | grep -vFx -f "$STATE/packages.before" || true
}
# A roll-out that was killed inside apt leaves its guard behind.
if grep -qs '^# Deskfleet:' /usr/sbin/policy-rc.d; then rm -f /usr/sbin/policy-rc.d; fi
found=$(ours)
if [ -n "$found" ]; then
    # Debian's docker.io wipes /var/lib/docker when it is purged, with a script that its removal leaves there.
    if grep -qsx 'path /var/lib/docker' "$STATE/docker.before" && echo "$found" | grep -qx docker.io; then
        dpkg --remove docker.io || true
        rm -f /var/lib/docker/nuke-graph-directory.sh
    fi
    # dpkg, unlike apt, never takes a package away that something of the machine's owner needs by now.
    dpkg --purge $found || true
    left=$(ours)
    [ -z "$left" ] || echo "kept, because other packages need them: $left"
fi
mine() { number=$(getent "$1" "$2" | cut -d: -f3); [ -n "$number" ] && [ "$number" -lt 1000 ]; }
for user in $(cat "$STATE/users.ours"); do
    if mine passwd "$user"; then userdel "$user" || true; fi
done
for group in $(cat "$STATE/groups.ours"); do
    if mine group "$group"; then groupdel "$group" || true; fi
done
# A bare machine had no package lists; apt fetched them for us.
if [ ! -s "$STATE/lists.before" ] || ! grep -q Packages "$STATE/lists.before"; then
    find /var/lib/apt/lists -type f -name '*_dists_*' -delete
fi
for made in /var/lib/apt/lists/auxfiles /var/cache/apt/pkgcache.bin /var/cache/apt/srcpkgcache.bin; do
    grep -qx "${made##*/}" "$STATE/lists.before" || rm -rf "$made"
done
