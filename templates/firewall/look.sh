# What the firewall's rules depend on, and what is loaded: "key value" lines. Runs with sh on the host, as root.
PATH=$PATH:/usr/sbin:/sbin
KEPT=/var/lib/deskfleet/firewall
# The port by which whoever runs this came in, if by SSH: sudo takes the variable away, so its parents are asked.
pid=$$
while [ "${pid:-0}" -gt 1 ]; do
    port=$(tr '\0' '\n' < /proc/$pid/environ 2>/dev/null | awk '/^SSH_CONNECTION=/ {print $4}')
    [ -z "$port" ] || { echo "ssh_port $port"; break; }
    pid=$(awk '/^PPid:/ {print $2}' /proc/$pid/status 2>/dev/null)
done
ss -Hltnp 2>/dev/null | awk '/"(sshd|dropbear)"/ {n = split($4, a, ":"); print "ssh_port", a[n]}'
systemctl show ssh.socket sshd.socket -p Listen --value 2>/dev/null | awk '$2 == "(Stream)" {n = split($1, a, ":"); print "ssh_port", a[n]}'
# Tunnels: the way to this host, or between the hosts, may lead through one.
wg show all listen-port 2>/dev/null | awk '{print "tunnel_port", $2}'
ss -Hlnup 2>/dev/null | awk '/"(wireguard-go|openvpn|charon|tailscaled|nebula|zerotier-one)"/ {n = split($4, a, ":"); print "tunnel_port", a[n]}'
{ ip -4 route show default; ip -6 route show default; } 2>/dev/null |
    awk '{for (i = 1; i < NF; i++) if ($i == "dev") print "outer", $(i + 1)}'
[ -z "$ADDRESS" ] || ip -o -4 address show to "$ADDRESS" 2>/dev/null | awk '{print "outer", $2}'
# A bridge with a port that is no container's.
for port in /sys/class/net/*/brport; do
    link=${port%/brport}
    [ -e "$link/device" ] || [ -d "/proc/net/bonding/${link##*/}" ] || [ -e "/proc/net/vlan/${link##*/}" ] || continue
    bridge=$(readlink -f "$port/bridge")
    echo "outer ${bridge##*/}"
done
# As Docker reads them: a stub on loopback is replaced by the servers that it asks.
for file in /etc/resolv.conf /run/systemd/resolve/resolv.conf; do
    awk '$1 == "nameserver" {print "resolver", $2}' $file 2>/dev/null
done
sed -n '/"dns"/,/]/p' /etc/docker/daemon.json 2>/dev/null | grep -oE '"[0-9a-f.:]+"' | tr -d '"' | sed 's/^/resolver /'
[ ! -e /run/deskfleet-firewall/turn ] || echo "pending yes"
[ ! -e "$KEPT/live" ] || echo "confirmed_live $(cat "$KEPT/live")"
[ ! -e "$KEPT/confirmed.nft" ] || echo "confirmed_text $(sha256sum < "$KEPT/confirmed.nft" | cut -d ' ' -f 1)"
table=$(nft -s list table inet deskfleet 2>/dev/null) && echo "live $(echo "$table" | sha256sum | cut -d ' ' -f 1)"
[ ! -L /etc/systemd/system/sysinit.target.wants/deskfleet-firewall.service ] || echo "enabled yes"
