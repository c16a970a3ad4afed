"""Pools of desktops that are made before anybody asks: what they need must be there on every host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from inventory.catalogue.images import Image, unknown_image
from inventory.catalogue.refusal import CatalogueError, unknown
from inventory.models import External, Group, Host, Pool, Site
from inventory.resources import cpu_millis, memory_mib


def hosts_of(pool: Pool, site: Site) -> tuple[str, ...]:
    """Where the pool is filled. External servers are somebody else's: they are filled only where named."""
    return pool.hosts or tuple(site.hosts_in(Group.SANDBOXES))


def refuse_pools_without_room(site: Site, images: Sequence[Image]) -> None:
    """CatalogueError where a pool can't be filled, alone or together with the others."""
    known = {image.name: image for image in images}
    wanted: dict[str, list[_Wanted]] = {}
    for n, pool in enumerate(site.settings.pools):
        key = f"settings.pools.{n}"
        if pool.image not in known:
            raise CatalogueError(f"{key}.image", unknown_image(pool.image, known))
        image = known[pool.image]
        _refuse_screen_of_none(pool, image, key)
        for name in _checked_hosts(pool, image, site, key):
            wanted.setdefault(name, []).append(_Wanted.of(key, pool, image))
    for name, pools in wanted.items():
        _refuse_the_same_twice(name, pools)
        _refuse_more_than_fits(name, site.external.get(name) or site.hosts[name], pools)


class _Wanted(NamedTuple):
    """What a pool is on one host. cpu: thousandths of a core, memory: MiB, of one desktop."""

    key: str
    image: str
    resolution: str | None
    size: int
    cpu: int
    memory: int

    @classmethod
    def of(cls, key: str, pool: Pool, image: Image) -> _Wanted:
        cpu, memory = cpu_millis(pool.cpu or image.cpu), memory_mib(pool.memory or image.memory)
        return cls(key, pool.image, pool.resolution, pool.size, cpu, memory)


def _refuse_screen_of_none(pool: Pool, image: Image, key: str) -> None:
    if image.display == "none" and pool.resolution is not None:
        raise CatalogueError(f"{key}.resolution", f"image {image.name!r} has no display; remove it")


def _checked_hosts(pool: Pool, image: Image, site: Site, key: str) -> tuple[str, ...]:
    hosts = hosts_of(pool, site)
    if not hosts:
        raise CatalogueError(f"{key}.hosts", "is missing: no host has the group 'sandboxes'; name servers")
    for name in hosts:
        if name not in site.placed_on:
            raise CatalogueError(f"{key}.hosts", unknown("sandbox host", name, site.placed_on))
        if hosts.count(name) > 1:
            raise CatalogueError(f"{key}.hosts", f"names {name!r} twice; keep one")
        if name in site.external and image.display != "none":
            raise CatalogueError(
                f"{key}.hosts",
                f"{name!r} is an external server, which takes images without a display alone; take it out",
            )
    return hosts


def _refuse_the_same_twice(name: str, pools: list[_Wanted]) -> None:
    seen: dict[tuple[object, ...], str] = {}
    for pool in pools:
        other = seen.setdefault((pool.image, pool.resolution, pool.cpu, pool.memory), pool.key)
        if other != pool.key:
            raise CatalogueError(pool.key, f"is the same as {other} on {name!r}; give one of them the sum")


def _refuse_more_than_fits(name: str, host: Host | External, pools: list[_Wanted]) -> None:
    for key, wanted, there in _sums(host, pools):
        if wanted > there:
            raise CatalogueError(
                pools[-1].key,
                f"all pools on {name!r} together need {key}: {_shown(key, wanted)}, and it has"
                f" {_shown(key, there)}; make them smaller",
            )


def _sums(host: Host | External, pools: list[_Wanted]) -> Iterator[tuple[str, int, int]]:
    """What is counted, what the pools need of it together, and how much there is."""
    yield "max_desktops", sum(pool.size for pool in pools), host.max_desktops
    if host.cpu is not None:
        yield "cpu", sum(pool.size * pool.cpu for pool in pools), cpu_millis(host.cpu)
    if host.memory is not None:
        yield "memory", sum(pool.size * pool.memory for pool in pools), memory_mib(host.memory)


def _shown(key: str, number: int) -> str:
    return {"cpu": f"{number / 1000:g}", "memory": f"{number}Mi"}.get(key, str(number))
