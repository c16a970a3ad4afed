# One look at a host for preflight: "key value" lines. $PORTS are the ports we want. Runs with sh on the host.
. /etc/os-release
echo "os $ID"
echo "version ${VERSION_ID:-?}"
echo "architecture $(uname -m)"
echo "uid $(id -u)"
echo "free_mb $(df -Pm /var/lib /var/lib/docker /opt 2>/dev/null | awk 'NR > 1 {if (m == "" || $4 < m) m = $4} END {print m}')"
[ -e /var/lib/deskfleet/stamps ] && echo "installed yes"
[ -e /etc/deskfleet/opensandbox.toml ] && echo "had_sandboxes yes"
sed -n 's/^fleet_id = "\(.*\)"$/fleet_id \1/p' /etc/deskfleet/viewer.toml 2>/dev/null
# The firewall asks where they may lie, too.
(PATH=$PATH:/usr/sbin:/sbin; command -v ip && command -v ss) >/dev/null || echo "lacks_iproute2 yes"
echo "addresses $(awk '/32 host/ { print f } { f = $2 }' /proc/net/fib_trie | sort -u | tr '\n' ' ')"
# Ports come from /proc, because a bare host may lack `ss`; who holds one, from the processes' open files.
awk -v ports="$PORTS" '
    BEGIN { n = split(ports, p, " "); for (i = 1; i <= n; i++) want[sprintf("%04X", p[i])] = p[i] }
    $4 == "0A" { split($2, a, ":"); if (a[2] in want && !seen[$2]++) print want[a[2]], a[1], $10 }
' /proc/net/tcp /proc/net/tcp6 2>/dev/null | while read -r port address inode; do
    owner=$(ls -l /proc/[0-9]*/fd 2>/dev/null |
        awk -v s="socket:[$inode]" '/^\/proc/ { split($1, a, "/"); pid = a[3] } $NF == s { print pid; exit }')
    if [ -n "$owner" ]; then
        echo "listener $port $address $(tr '\0' ' ' < "/proc/$owner/cmdline" | cut -c1-120) (pid $owner)"
    else
        echo "listener $port $address an unknown process"
    fi
done
