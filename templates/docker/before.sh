# Remembers, before the first dockerd of ours starts, what it is going to change. Runs with sh on the host.
set -eu
mkdir -p -m 755 "$STATE"
[ ! -e "$STATE/docker.before" ] || exit 0
{
    echo "ip_forward $(cat /proc/sys/net/ipv4/ip_forward)"
    echo "forward $(iptables -S FORWARD 2>/dev/null | awk '$1 == "-P" {print $3}')"
    echo "chains $(iptables -S 2>/dev/null | grep -c '^-N DOCKER')"
    echo "docker0 $([ -e /sys/class/net/docker0 ] && echo yes || echo no)"
    awk '$2 ~ "^/(var/lib|run)/docker" {print "mount", $2}' /proc/mounts
    for path in /var/lib/docker /var/lib/containerd /opt/containerd /etc/docker /run/containerd; do
        # An empty directory (a volume that is mounted there) holds nothing to lose; it is emptied again, not removed.
        if [ -d $path ] && [ -z "$(ls -A $path)" ]; then echo "empty $path"; elif [ -e $path ]; then echo "path $path"; fi
    done
} > "$STATE/docker.before.new"
# Half a list would allow after.sh to delete what is missing in it.
mv -fT "$STATE/docker.before.new" "$STATE/docker.before"
