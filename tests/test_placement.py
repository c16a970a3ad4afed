"""Who gets which host, in which order: the rules one by one, then against any table."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.soaking import examples
from viewer.model import Display, HostStatus, Session, Via
from viewer.placement import (
    Capacity,
    Decision,
    HostView,
    Place,
    Refuse,
    Reserved,
    Table,
    Wait,
    decide,
    fair_order,
)

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
OK = HostView(status=HostStatus.OK)
SILENT = HostView(status=HostStatus.UNREACHABLE, detail="sandbox host silent is unreachable: it is off")


def waiting(number: int = 1, **fields: object) -> Session:
    """A session of tenant `main` that waits since `number` seconds after NOW, for a core and 1 GiB."""
    usual: dict[str, object] = {
        "id": f"s-{number:03}", "tenant_id": "main", "image": "desktop", "request_id": f"r-{number}",
        "ttl_seconds": 3600, "created_by": "key", "created_at": NOW + timedelta(seconds=number),
        "updated_at": NOW, "expires_at": NOW + timedelta(hours=1), "cpu_millis": 1000, "memory_mib": 1024,
    }  # fmt: skip
    return Session.model_validate(usual | fields)


def decided(
    *sessions: Session,
    capacities: dict[str, Capacity],
    hosts: dict[str, HostView] | None = None,
    reserved: dict[str, Reserved] | None = None,
) -> list[Decision]:
    views = dict.fromkeys(capacities, OK) | (hosts or {})
    table = Table(waiting=sessions, reserved=reserved or {}, hosts=views)
    return decide(table, capacities, {"desktop": "deskfleet/desktop:latest"})


def place_of(*decisions: Decision) -> list[str | None]:
    return [decision.host if isinstance(decision, Place) else None for decision in decisions]


def why(decision: Decision) -> str:
    assert not isinstance(decision, Place)
    return decision.why


TWO = {"a": Capacity(desktops=8), "b": Capacity(desktops=8)}


def test_least_loaded_host_is_taken() -> None:
    held = {"a": Reserved(desktops=4), "b": Reserved(desktops=3)}
    assert place_of(*decided(waiting(), capacities=TWO, reserved=held)) == ["b"]


def test_load_is_the_scarcest_thing_that_the_host_has() -> None:
    capacities = {"a": Capacity(desktops=100, memory_mib=4096), "b": Capacity(desktops=10)}
    held = {"a": Reserved(desktops=3, memory_mib=3072), "b": Reserved(desktops=5)}
    assert place_of(*decided(waiting(), capacities=capacities, reserved=held)) == ["b"]


def test_silent_draining_and_failed_hosts_are_skipped() -> None:
    capacities = {name: Capacity(desktops=8) for name in ("silent", "draining", "failed", "fine")}
    views = {"silent": SILENT, "draining": HostView(status=HostStatus.OK, is_draining=True)}
    session = waiting(failed_hosts={"failed": "it lacks the image"})
    assert place_of(*decided(session, capacities=capacities, hosts=views)) == ["fine"]


def test_host_that_lacks_something_comes_last() -> None:
    lame = HostView(status=HostStatus.OK, detail="its relay is silent")
    held = {"b": Reserved(desktops=7)}
    assert place_of(*decided(waiting(), capacities=TWO, hosts={"a": lame}, reserved=held)) == ["b"]


def test_host_with_the_image_comes_before_one_without() -> None:
    has = HostView(status=HostStatus.OK, images=frozenset({"deskfleet/desktop:latest"}))
    lacks = HostView(status=HostStatus.OK, images=frozenset({"busybox:latest"}))
    held = {"a": Reserved(desktops=6)}
    found = decided(waiting(), capacities=TWO, hosts={"a": has, "b": lacks}, reserved=held)
    assert place_of(*found) == ["a"]


def test_wanted_host_and_labels_are_kept_to() -> None:
    capacities = {"a": Capacity(desktops=8, labels={"disk": "fast"}), "b": Capacity(desktops=8)}
    found = decided(
        waiting(1, wanted_host="b"), waiting(2, wanted_labels={"disk": "fast"}), capacities=capacities
    )
    assert place_of(*found) == ["b", "a"]


def test_full_fleet_lets_wait_with_how_full_it_is() -> None:
    held = {"here": Reserved(desktops=8)}
    [found] = decided(waiting(), capacities={"here": Capacity(desktops=8)}, reserved=held)
    assert isinstance(found, Wait)
    assert found.why == "no sandbox host has room: 8 of 8 desktops in use on here"


def test_full_fleet_refuses_who_does_not_want_to_wait() -> None:
    held = {"here": Reserved(desktops=8)}
    [found] = decided(waiting(may_queue=False), capacities={"here": Capacity(desktops=8)}, reserved=held)
    assert isinstance(found, Refuse)
    assert found.reason == "full"


def test_creates_under_way_hold_up_even_who_does_not_want_to_wait() -> None:
    held = {"here": Reserved(desktops=3, creates=3)}
    [found] = decided(
        waiting(may_queue=False), capacities={"here": Capacity(desktops=8, creates=3)}, reserved=held
    )
    assert isinstance(found, Wait)


@pytest.mark.parametrize(
    ("fields", "capacity", "sentence"),
    [
        ({"cpu_millis": 4000}, Capacity(desktops=8, cpu_millis=2000), "has 2000m of CPU in all"),
        ({"memory_mib": 4096}, Capacity(desktops=8, memory_mib=2048), "has 2048Mi of memory in all"),
        ({"wanted_host": "gone"}, Capacity(desktops=8), "gone is no longer part of this fleet"),
        ({"wanted_labels": {"gpu": "yes"}}, Capacity(desktops=8), "has not the label gpu=yes"),
        ({"display": Display.RFB}, Capacity(desktops=8, shows_desktops=False), "has no relay"),
        (
            {"via": Via.OPENSANDBOX, "display": Display.NONE},
            Capacity(desktops=8, shows_desktops=False),
            "ports could not be reached",
        ),
    ],
)
def test_what_no_host_can_ever_take_is_refused(
    fields: dict[str, object], capacity: Capacity, sentence: str
) -> None:
    [found] = decided(waiting(1, **fields), capacities={"here": capacity})
    assert isinstance(found, Refuse)
    assert found.reason == "impossible"
    assert sentence in found.why


def test_silent_fleet_is_asked_once_and_then_refused_with_why() -> None:
    capacities = {"silent": Capacity(desktops=8)}
    assert place_of(*decided(waiting(), capacities=capacities, hosts={"silent": SILENT})) == ["silent"]
    session = waiting(failed_hosts={"silent": "it is off"})
    [found] = decided(session, capacities=capacities, hosts={"silent": SILENT})
    assert isinstance(found, Refuse)
    assert (found.reason, found.why) == ("unreachable", "it is off")


def test_tenants_take_turns() -> None:
    many = [waiting(number, tenant_id="many") for number in range(1, 5)]
    late = [waiting(number, tenant_id="late") for number in range(10, 12)]
    order = [session.id for session in fair_order([*many, *late], {})]
    assert order == ["s-001", "s-010", "s-002", "s-011", "s-003", "s-004"]
    busy = [session.id for session in fair_order([*many, *late], {"many": 2})]
    assert busy == ["s-010", "s-011", "s-001", "s-002", "s-003", "s-004"]


def test_big_one_at_the_head_does_not_hold_up_the_small_ones_behind_it() -> None:
    capacities = {"here": Capacity(desktops=8, memory_mib=4096)}
    held = {"here": Reserved(memory_mib=2048)}
    big, small = waiting(1, memory_mib=4096), waiting(2)
    assert place_of(*decided(big, small, capacities=capacities, reserved=held)) == [None, "here"]


@pytest.mark.soak
@given(
    st.lists(
        st.tuples(st.sampled_from(["main", "other"]), st.integers(0, 3000), st.integers(0, 3000)), max_size=25
    ),
    st.lists(st.tuples(st.integers(1, 6), st.none() | st.integers(500, 8000), st.integers(1, 4)), max_size=4),
)
@settings(max_examples=examples(200), deadline=None)
def test_no_host_is_ever_over_its_capacity(
    wanted: list[tuple[str, int, int]], hosts: list[tuple[int, int | None, int]]
) -> None:
    capacities = {
        f"h{number}": Capacity(desktops=desktops, memory_mib=memory, cpu_millis=memory, creates=creates)
        for number, (desktops, memory, creates) in enumerate(hosts)
    }
    sessions = [
        waiting(number, tenant_id=tenant, cpu_millis=cpu, memory_mib=memory)
        for number, (tenant, cpu, memory) in enumerate(wanted)
    ]
    found = decided(*sessions, capacities=capacities)
    by_id = {session.id: session for session in sessions}
    assert Counter(decision.session_id for decision in found) == Counter(by_id.keys())
    for name, capacity in capacities.items():
        placed = [by_id[one.session_id] for one in found if isinstance(one, Place) and one.host == name]
        assert len(placed) <= min(capacity.desktops, capacity.creates)
        if capacity.memory_mib is not None:
            assert sum(session.memory_mib for session in placed) <= capacity.memory_mib
            assert sum(session.cpu_millis for session in placed) <= capacity.memory_mib
    for decision in found:
        if not isinstance(decision, Place):
            assert why(decision)
