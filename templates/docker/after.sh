# Takes back what a dockerd that we started left in the network: it never cleans up itself. Runs with sh on the host.
set -u
# Without the list of what was there before, nothing may be taken for ours.
[ -s "$STATE/docker.before" ] || exit 0
before() { awk -v key="$1" '$1 == key {print $2}' "$STATE/docker.before"; }
if [ "$(before chains)" = 0 ] && command -v iptables >/dev/null; then
    for table in filter nat raw; do
        iptables -t $table -S 2>/dev/null | grep -E '^-A .*(-j DOCKER|docker0)' | grep -v '^-A DOCKER' | sed 's/^-A/-D/' |
            while read -r rule; do eval "iptables -t $table $rule"; done
        chains=$(iptables -t $table -S 2>/dev/null | awk '$1 == "-N" && $2 ~ /^DOCKER/ {print $2}')
        for chain in $chains; do iptables -t $table -F "$chain"; done
        for chain in $chains; do iptables -t $table -X "$chain"; done
    done
    policy=$(before forward); iptables -P FORWARD "${policy:-ACCEPT}"
fi
[ "$(before docker0)" = yes ] || [ ! -e /sys/class/net/docker0 ] || ip link delete docker0
[ "$(before ip_forward)" != 0 ] || echo 0 > /proc/sys/net/ipv4/ip_forward
# dockerd mounts its directory on itself, and the network namespace of the host below /run.
awk '$2 ~ "^/(var/lib|run)/docker" {print $2}' /proc/mounts | sort -r | while read -r path; do
    grep -qx "mount $path" "$STATE/docker.before" || umount "$path"
done
if [ -n "$OURS" ]; then
    copy=/etc/docker/daemon.json.before-deskfleet
    if [ -e $copy ]; then mv -fT $copy /etc/docker/daemon.json; else rm -f /etc/docker/daemon.json; fi
    for path in /var/lib/docker /var/lib/containerd /opt/containerd /etc/docker /run/containerd; do
        [ -e $path ] || continue
        if grep -qx "path $path" "$STATE/docker.before"; then
            echo "kept: $path was there before"
        elif grep -qx "empty $path" "$STATE/docker.before"; then
            find $path -mindepth 1 -delete 2>/dev/null
        else
            rm -rf $path
        fi
    done
    rm -rf /run/docker /run/docker.sock /run/docker.pid
fi
# containerd makes them when it starts; where it came with us and they are empty, nobody has a use for them.
if grep -qsx containerd "$STATE/packages.ours"; then rmdir /etc/cni/net.d /etc/cni 2>/dev/null || true; fi
exit 0
