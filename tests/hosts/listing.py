"""What lies and runs on a bare host, as sets of lines, so that two moments can be compared.

Times, counters and process ids are left out; so is what any work on a machine changes (package lists, logs of
apt, caches), each for a reason written beside it.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass

from tests.hosts.bare_host import CLONE, BareHost
from tests.hosts.nftables import tables_of

# Folders not looked into.
NOISE = (
    *("/proc", "/sys", "/dev", "/tmp", "/var/tmp", CLONE),
    *("/var/lib/docker",),  # the volume of the host; what is in it is listed as Docker's objects
    *("/var/lib/apt/lists", "/var/cache/apt", "/var/cache/debconf", "/var/cache/ldconfig"),  # apt's own books
    *("/var/lib/dpkg", "/var/lib/apt", "/var/lib/ucf"),  # listed as packages
    *("/var/log/apt", "/var/log/journal", "/run/log", "/run/systemd", "/run/udev", "/run/user", "/run/lock"),
    *("/var/lib/systemd", "/var/lib/private", "/run/docker", "/run/containerd", "/sys/fs/cgroup"),
)
NOISE_FILES = (
    *("/var/log/dpkg.log", "/var/log/alternatives.log", "/var/log/lastlog", "/var/log/wtmp", "/var/log/btmp"),
    *("/etc/ld.so.cache", "/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-"),
    *(
        "/etc/subuid-",
        "/etc/subgid-",
        "/etc/.pwd.lock",
        "/etc/mtab",
        "/run/docker.pid",
        "/run/utmp",
        "/run/adduser",
    ),
    "/var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db",  # the engine's own books
    *("/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/run/motd.dynamic", "/var/log/bootstrap.log"),
)

_COLLECT = r"""
import hashlib, json, os, pwd, subprocess, sys, time
noise, noise_files = (set(part) for part in json.load(sys.stdin))

def lines(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return []
    return [line.rstrip() for line in done.stdout.splitlines() if line.strip()]

def docker(what, format):
    return lines("docker", *what.split(), "--format", format)

def describe(path):
    info = os.lstat(path)
    text = f"{path} {info.st_mode:o} {info.st_uid}:{info.st_gid}"
    if os.path.islink(path):
        return f"{text} -> {os.readlink(path)}"
    if os.path.isfile(path):
        with open(path, "rb") as stream:
            return f"{text} {hashlib.sha256(stream.read()).hexdigest()[:16]}"
    return text

def files():
    found = []
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in noise
                      and name != "__pycache__"]
        for name in folders + names:
            path = os.path.join(folder, name)
            if path not in noise_files and not path.endswith(".pyc"):
                try:
                    found.append(describe(path))
                except OSError:
                    pass
    return found

def processes():
    me, found = os.getpid(), []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as stream:
                command = stream.read().replace("\0", " ").strip()
            with open(f"/proc/{pid}/stat") as stream:
                parent = int(stream.read().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if command and int(pid) != me and parent != me and not command.startswith("sleep "):
            found.append(command)
    return found

def units():
    "A busy systemd does not always answer; that is not to be taken for no units."
    command = ["systemctl", "list-unit-files", "--no-legend", "--no-pager"]
    if not os.path.isdir("/run/systemd/system"):
        return lines(*command)
    for attempt in range(10):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0 and done.stdout:
            return [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
        time.sleep(1)
    sys.exit(f"{' '.join(command)}: {done.stderr}")

json.dump({
    "processes": processes(),
    "packages": lines("dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package} ${Version}\n"),
    "marked by hand": lines("apt-mark", "showmanual"),
    "users": [line.rstrip() for line in open("/etc/passwd")],
    "groups": [line.rstrip() for line in open("/etc/group")],
    "units": units(),
    "cron": lines("crontab", "-l"),
    "files": files(),
    "containers": docker("ps --all", "{{.ID}} {{.Names}} {{.Image}} {{.State}}"),
    "images": docker("images --all", "{{.ID}} {{.Repository}}:{{.Tag}}"),
    "networks": docker("network ls", "{{.ID}} {{.Name}}"),
    "volumes": docker("volume ls", "{{.Name}}"),
    "namespaces": os.listdir("/run/netns") if os.path.isdir("/run/netns") else [],
    "links": [line.split(":")[1].split("@")[0].strip() for line in lines("ip", "-o", "link")],
    "sockets": sorted({" ".join(line.split()[i] for i in (0, 4)) for line in lines("ss", "-Hlntu")}),
}, sys.stdout)
"""


@dataclass(frozen=True)
class Listing:
    """Kind of thing (files, packages, …) → one line for each."""

    things: dict[str, list[str]]

    def to_json(self) -> str:
        return json.dumps(self.things)

    @classmethod
    def from_json(cls, text: str) -> Listing:
        return cls(json.loads(text))


def list_host(host: BareHost) -> Listing:
    """List `host` as it is now; takes a few seconds, as every file is read."""
    question = json.dumps([list(NOISE), list(NOISE_FILES)])
    things: dict[str, list[str]] = json.loads(host.run(["python3", "-c", _COLLECT], stdin=question).out)
    things["firewall"] = _firewall(host)
    return Listing(things)


# What iptables makes of its rules where it writes them to nftables: Docker's, listed as iptables has them.
_IPTABLES = {
    f"{family} {table}"
    for family in ("ip", "ip6")
    for table in ("filter", "nat", "mangle", "raw", "security")
}


def _firewall(host: BareHost) -> list[str]:
    """The host's rules and non-default policies, read by this machine's iptables: a bare host has none. And
    all other tables of nftables; with what is in them, where the host has `nft`."""
    saved = subprocess.run(host.enter("iptables-save"), capture_output=True, text=True, check=True).stdout
    return [
        line
        for line in saved.splitlines()
        if line.startswith("-A") or (line.startswith(":") and "DROP" in line)
    ] + [line for table in sorted(tables_of(host) - _IPTABLES) for line in _table(host, table)]


def _table(host: BareHost, table: str) -> list[str]:
    """Its name, and each of its lines with the chain or set that it stands in; without counts (`-s`)."""
    listed = host.run(f"nft -s list table {table}", check=False)
    block, found = "", []
    for line in listed.out.splitlines() if listed.code == 0 else ():
        if line.endswith("{"):
            block = " ".join(line.split())
        found.append(f"{table}: {block} {line.strip()}")
    return [f"{table}:", *found]


def differences(before: Listing, after: Listing) -> list[str]:
    """One line for each thing that came or went: `+ files /etc/x …`, `- packages ii y 1.0`."""
    found = []
    for kind in sorted(set(before.things) | set(after.things)):
        old, new = set(before.things.get(kind, [])), set(after.things.get(kind, []))
        found += [f"- {kind} {line}" for line in sorted(old - new)]
        found += [f"+ {kind} {line}" for line in sorted(new - old)]
    return found
