"""The hosts as a person sees them: do they answer, how full are they, and what do their desktops run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from viewer.fleet_store import HostRecord
from viewer.model import DesktopBackend, HostStatus, Principal, Role, Scope, Session, WantedBackend
from viewer.nodes import CERTIFICATE_WARNING
from viewer.placement import Reserved
from viewer.public import HostDesktop, HostList, PublicHost
from viewer.settings import DesktopSettings, HostSettings, Settings

NOBODY_LOOKED = timedelta(seconds=120)
"""The worker writes at least every 30 s that a host still answers."""

LITTLE_SPACE = 0.05

_GRANTED: Mapping[WantedBackend, tuple[DesktopBackend, ...]] = {
    "kasmvnc": ("kasmvnc",),
    "tigervnc": ("tigervnc",),
    "kasmvnc-or-tigervnc": ("kasmvnc", "tigervnc"),
}
"""What may run where this is wanted."""


def host_list(
    settings: Settings,
    *,
    who: Principal,
    records: Iterable[HostRecord],
    used: Mapping[str, Reserved],
    desktops: Sequence[Session],
    own: Mapping[str, int],
    last_ends: Mapping[str, datetime],
    now: datetime,
) -> HostList:
    """Every host of the settings, as `who` may see it.

    used: what live sandboxes hold, by host. desktops: live sessions of the persistent desktops of his tenant.
    own: how many live sessions of his tenant each host has. last_ends: when the last of its sandboxes ends.
    """
    known = {record.name: record for record in records}
    rows = {session.sandbox_id: session for session in desktops}
    hosts = []
    for host in settings.hosts:
        record = known.get(host.name) or HostRecord(
            name=host.name, status=HostStatus.UNKNOWN, detail=None, last_seen_at=None, changed_at=now
        )
        wanted = [one for one in settings.desktops if one.host == host.name and one.tenant == who.tenant]
        shown = tuple(_desktop(one, rows.get(one.name)) for one in wanted)
        held = used.get(host.name, Reserved())
        hosts.append(
            PublicHost(
                name=host.name,
                groups=host.groups,
                status=record.status,
                detail=for_eyes_of(who, record.detail, host),
                last_seen_at=record.last_seen_at,
                since=record.changed_at if host.name in known else None,
                own_sessions=own.get(host.name, 0),
                used_desktops=held.desktops,
                max_desktops=host.max_desktops,
                used_cpu=f"{held.cpu_millis}m",
                max_cpu=f"{host.cpu_millis}m" if host.cpu_millis is not None else None,
                used_memory=f"{held.memory_mib}Mi",
                max_memory=f"{host.memory_mib}Mi" if host.memory_mib is not None else None,
                draining=record.is_draining,
                drained_at=last_ends.get(host.name) if sees_the_fleet(who) else None,
                certificate_ends=record.certificate_ends if sees_the_fleet(who) else None,
                labels=host.labels,
                report=record.report if sees_the_fleet(who) else None,
                desktops=shown,
                warnings=tuple(_warnings(host, record, held.desktops, shown, now)),
                address=host.address if sees_the_fleet(who) else None,
            )
        )
    return HostList(items=tuple(hosts))


def _desktop(wanted: DesktopSettings, row: Session | None) -> HostDesktop:
    return HostDesktop(
        name=wanted.name,
        session_id=row.id if row else None,
        status=row.status if row else None,
        status_reason=row.status_reason if row else None,
        wanted_backend=wanted.backend,
        backend=row.backend if row else None,
    )


def _warnings(
    host: HostSettings, record: HostRecord, used: int, desktops: Iterable[HostDesktop], now: datetime
) -> Iterator[str]:
    """What is amiss and not already the reason of its status."""
    silent_since = now - (record.last_seen_at or record.changed_at)
    if record.status is HostStatus.OK and silent_since > NOBODY_LOOKED:
        minutes = int(silent_since.total_seconds() // 60)
        yield f"nobody has looked at this host for {minutes} min; does deskfleet-worker run?"
    end = record.certificate_ends
    if end is not None and end - now < CERTIFICATE_WARNING:
        yield f"a certificate between it and the control host ends on {end:%Y-%m-%d}; run the deploy"
    if host.max_desktops and used >= host.max_desktops:
        yield "it is full: new desktops go to other hosts"
    if record.is_draining:
        yield "it is draining: new desktops go to other hosts, those that run go on"
    report = record.report
    if report is not None and report.disk_free < LITTLE_SPACE * report.disk_total:
        yield f"its disk is nearly full: {report.disk_free >> 20} MiB are left for sandboxes"
    for desktop in desktops:
        if desktop.wanted_backend == "kasmvnc-or-tigervnc" and desktop.backend == "tigervnc":
            yield f"desktop {desktop.name} runs TigerVNC, because KasmVNC could not be had"
        elif desktop.backend is not None and desktop.backend not in _GRANTED[desktop.wanted_backend]:
            wanted = desktop.wanted_backend
            yield f"desktop {desktop.name} runs {desktop.backend}, not {wanted}; run the deploy"


def sees_the_fleet(who: Principal) -> bool:
    """Addresses and load are of every tenant's hosts, and so for the fleet's admins."""
    return who.role.covers(Role.ADMIN) and who.may(Scope.FLEET)


def for_eyes_of(who: Principal, detail: str | None, host: HostSettings) -> str | None:
    """Sentences of the worker name addresses, which only the fleet's admins are shown."""
    if detail is None or sees_the_fleet(who):
        return detail
    for url in (host.opensandbox_url, host.relay_url, host.hostwatch_url):
        if url is not None:
            for word in (" to ", " from ", " at "):
                detail = detail.replace(f"{word}{url}", "")
            detail = detail.replace(url, host.name)
    return detail
