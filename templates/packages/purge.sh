# Purges what packages.ours names. Runs with sh on the host.
set -eu
installed() { dpkg-query -W -f='${Package} ${db:Status-Status}\n' | awk '$2 == "installed" || $2 == "config-files" {print $1}' | sort; }
export DEBIAN_FRONTEND=noninteractive
ours=$(installed | comm -12 - "$STATE/packages.ours")
if [ -n "$ours" ]; then
    # Debian's docker.io wipes /var/lib/docker when it is purged, with a script that its removal leaves there.
    if grep -qsx 'path /var/lib/docker' "$STATE/docker.before" && echo "$ours" | grep -qx docker.io; then
        dpkg --remove docker.io || true
        rm -f /var/lib/docker/nuke-graph-directory.sh
    fi
    # dpkg, unlike apt, never takes a package away that something of the machine's owner needs by now.
    dpkg --purge $ours || true
    left=$(installed | comm -12 - "$STATE/packages.ours")
    [ -z "$left" ] || echo "kept, because other packages need them: $left"
fi
for user in $(cat "$STATE/users.ours"); do
    if getent passwd "$user" > /dev/null; then userdel "$user" || true; fi
done
for group in $(cat "$STATE/groups.ours"); do
    if getent group "$group" > /dev/null; then groupdel "$group" || true; fi
done
# A bare machine had no package lists; apt fetched them for us.
if [ ! -s "$STATE/lists.before" ] || ! grep -q Packages "$STATE/lists.before"; then
    find /var/lib/apt/lists -type f -name '*_dists_*' -delete
fi
for made in /var/lib/apt/lists/auxfiles /var/cache/apt/pkgcache.bin /var/cache/apt/srcpkgcache.bin; do
    grep -qx "${made##*/}" "$STATE/lists.before" || rm -rf "$made"
done
