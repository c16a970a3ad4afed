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
# Servers that root started, and what is configured. Any account may give a process such a name, run sshd itself,
# or listen through its session (`ssh -R`, X11).
not_local() { grep -vE '(^|[ \t])(127\.[0-9.]+|\[::1\]|\[::ffff:127\.[0-9.]+\])(%[^:]*)?:'; }
program() { # PID NAMES...: is it one of these, from a file that is root's?
    exe=$(readlink "/proc/$1/exe" 2>/dev/null) && [ "$(stat -L -c %u "/proc/$1/exe" 2>/dev/null)" = 0 ] || return 1
    shift
    name=${exe##*/}
    case " $* " in *" ${name%% *} "*) ;; *) return 1 ;; esac
}
user_of() { awk '/^Uid:/ {print $3}' "/proc/$1/status" 2>/dev/null; }
ssh_server() { # PID: not the process of a session?
    [ "$(user_of "$1")" = 0 ] && program "$1" sshd dropbear dropbearmulti || return 1
    case "$name" in
    sshd) tr '\0' ' ' < "/proc/$1/cmdline" | grep -q '\[listener\]' ;;
    *) [ "$(readlink "/proc/$(awk '/^PPid:/ {print $2}' "/proc/$1/status")/exe")" != "$exe" ] ;;
    esac
}
tunnel() { # PID: a daemon? Some give up root for an account of their own, or for nobody.
    user=$(user_of "$1")
    [ "${user:-1000}" -lt 1000 ] || [ "$user" = 65534 ] || return 1
    program "$1" wireguard-go openvpn charon charon-systemd tailscaled nebula zerotier-one
}
listening() { # KEY TEST: lines of ss -> the ports of processes that pass the test
    not_local | while read -r _ _ _ here _ who; do
        for pid in $(echo "$who" | grep -oE 'pid=[0-9]+'); do
            ! "$2" "${pid#pid=}" || { echo "$1 ${here##*:}"; break; }
        done
    done
}
ss -Hltnp 2>/dev/null | listening ssh_port ssh_server
sshd -T 2>/dev/null | awk '$1 == "listenaddress" {print "x", $2}' | not_local | sed 's/.*:/ssh_port /'
systemctl show ssh.socket sshd.socket -p Listen --value 2>/dev/null | awk '$2 == "(Stream)" {print "x", $1}' | not_local | sed 's/.*:/ssh_port /'
# Tunnels: the way to this host, or between the hosts, may lead through one.
wg show all listen-port 2>/dev/null | awk '{print "tunnel_port", $2}'
ss -Hlnup 2>/dev/null | listening tunnel_port tunnel
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
# What the rules keep from sandboxes of hosts that may not be asked now.
sed -n '/^\tset public/,/}/s/.*elements = { \(.*\) }/\1/p' /etc/deskfleet/firewall/rules.nft 2>/dev/null |
    tr -d ' ' | tr ',' '\n' | sed 's/^/refused /'
[ ! -e /run/deskfleet-firewall/turn ] || echo "pending yes"
[ ! -e "$KEPT/live" ] || echo "confirmed_live $(cat "$KEPT/live")"
[ ! -e "$KEPT/confirmed.nft" ] || echo "confirmed_text $(sha256sum < "$KEPT/confirmed.nft" | cut -d ' ' -f 1)"
table=$(nft -s list table inet deskfleet 2>/dev/null) && echo "live $(echo "$table" | sha256sum | cut -d ' ' -f 1)"
[ ! -L /etc/systemd/system/sysinit.target.wants/deskfleet-firewall.service ] ||
    [ ! -L /etc/systemd/system/nftables.service.wants/deskfleet-firewall.service ] || echo "enabled yes"
