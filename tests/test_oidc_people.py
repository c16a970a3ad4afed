"""People who come through a provider, as the database has them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import func, select

import viewer.oidc.people
from tests.viewer_fixtures import People
from viewer.model import Role, utcnow
from viewer.oidc.arrivals import Arrival, Place
from viewer.oidc.attempts import LIFE_SECONDS
from viewer.oidc.failures import Reason, SignInFailed
from viewer.store import Store
from viewer.tables import OidcStateRow

ADMIN, WATCHER = Place(tenant="acme", role=Role.ADMIN), Place(tenant="acme", role=Role.WATCHER)


def arrival(subject: str = "4711", *, issuer: str = "https://login.example.com", **values: str) -> Arrival:
    known = {"login": "gwen", "name": "Gwen Stacy", **values}
    return Arrival(provider="Acme", issuer=issuer, subject=subject, login_claim="preferred_username", **known)


def states(store: Store) -> int:
    with store._database.reading() as orm:
        return orm.scalar(select(func.count()).select_from(OidcStateRow)) or 0


def test_state_is_good_once_however_many_ask_at_once(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        good = list(pool.map(lambda _: store.oidc.use_state("the-state"), range(8)))
    assert sorted(good) == [False] * 7 + [True]
    assert store.oidc.use_state("another")


def test_used_states_are_forgotten_when_they_would_be_over(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        store.oidc.use_state(str(number))
    later = utcnow() + timedelta(seconds=LIFE_SECONDS)
    monkeypatch.setattr(viewer.oidc.people, "utcnow", lambda: later)
    store.oidc.use_state("new")
    assert states(store) == 1


def test_first_sign_ins_at_once_make_one_person(store: Store, people: People) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: store.oidc.admit(arrival(), ADMIN), range(8)))
    assert len(found) == 1
    assert len(store.people("acme").page(None, 50).items) == 1


def test_same_subject_of_another_issuer_is_somebody_else(store: Store, people: People) -> None:
    store.oidc.admit(arrival(), ADMIN)
    with pytest.raises(SignInFailed, match="login-taken"):
        store.oidc.admit(arrival(issuer="https://evil.example"), ADMIN)
    other = store.oidc.admit(arrival(issuer="https://evil.example", login="gwen2"), WATCHER)
    assert store.people("acme").get(other).role is Role.WATCHER


def test_login_may_change_at_the_provider_and_stays_here(store: Store, people: People) -> None:
    first = store.oidc.admit(arrival(), ADMIN)
    assert store.oidc.admit(arrival(login="gwendolyn"), ADMIN) == first
    assert store.people("acme").get(first).login == "gwen"


def test_name_is_one_that_a_page_can_show(store: Store, people: People) -> None:
    person = store.people("acme").get(store.oidc.admit(arrival(name=f"G\x00w\u202een\n{'x' * 500}"), ADMIN))
    assert person.name.startswith("Gwenx")
    assert len(person.name) == 200
    nameless = store.oidc.admit(arrival("4712", login="walt", name="\n"), ADMIN)
    assert store.people("acme").get(nameless).name == "walt"


@pytest.mark.parametrize("login", ["", "Gwen Stacy", "../x", "gwén", "x" * 101])
def test_what_cannot_be_a_login_makes_nobody(store: Store, people: People, login: str) -> None:
    with pytest.raises(SignInFailed, match="claim-missing"):
        store.oidc.admit(arrival(login=login), ADMIN)
    assert store.people("acme").page(None, 50).items == ()


def test_shutting_out_a_stranger_does_nothing(store: Store, people: People) -> None:
    store.oidc.shut_out("https://login.example.com", "nobody", Reason.NO_RULE)
    assert not store.oidc.knows("person:nobody", "https://login.example.com")
    assert not store.oidc.knows("key:abcdefgh", "https://login.example.com")
