# Remembers, before the first dockerd of ours starts, what it is going to change. Runs with sh on the host.
set -eu
mkdir -p -m 755 "$STATE"
[ -e "$STATE/docker.before" ] || {
    echo "ip_forward $(cat /proc/sys/net/ipv4/ip_forward)"
    echo "forward $(iptables -S FORWARD 2>/dev/null | awk '$1 == "-P" {print $3}')"
    echo "chains $(iptables -S 2>/dev/null | grep -c '^-N DOCKER')"
    echo "docker0 $([ -e /sys/class/net/docker0 ] && echo yes || echo no)"
    awk '$2 ~ "^/(var/lib|run)/docker" {print "mount", $2}' /proc/mounts
    for path in /var/lib/docker /var/lib/containerd /opt/containerd /etc/docker; do [ ! -e $path ] || echo "path $path"; done
} > "$STATE/docker.before"
