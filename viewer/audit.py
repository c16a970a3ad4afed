"""The audit log: who did what, from where, with what outcome; written in the transaction of its change.

`note` is all that the stores need. Who acts is known from around them: the viewer says so for each request
(`in_request`, `by`), a program for all that it does by itself (`acts_as`). Entries are only ever added: the
database refuses all else, and each carries a SHA-256 over the tenant's entry before it, so that one that is
changed, taken out or put in by hand shows (`broken`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from sqlalchemy import insert
from sqlalchemy.orm import Session as OrmSession

from viewer.model import Frozen, utcnow
from viewer.tables import (
    ApiKeyRow,
    AuditChainRow,
    AuditRow,
    PersonRow,
    ShareLinkRow,
    WebhookSecretRow,
)

NO_TENANT = "-"
"""Whose log it is when something is done for no tenant, or nobody knows for which: a failed sign-in under an
unknown name. No tenant can have this name."""
START = "0" * 64
"""What stands for the entry before the first."""
_LONGEST = 400
"""Characters of a name or a target: a client chooses some of them."""

Action: TypeAlias = Literal[
    "session.create",
    "session.view",
    "session.control",
    "session.port",
    "session.devtools",
    "session.input",
    "session.screenshot",
    "session.terminate",
    "session.pause",
    "session.resume",
    "session.renew",
    "session.labels",
    "help.ask",
    "help.end",
    "stream.close",
    "ticket.create",
    "ticket.revoke",
    "lease.take",
    "lease.give",
    "lease.release",
    "lease.request",
    "lease.expire",
    "thumbnails.view",
    "service.open",
    "entry.ticket",
    "entry.open",
    "document.create",
    "document.change",
    "document.delete",
    "share.create",
    "share.open",
    "share.revoke",
    "sign_in.ok",
    "sign_in.failed",
    "sign_in.locked",
    "sign_in.end",
    "sign_in.link",
    "sign_out",
    "tenant.create",
    "tenant.disable",
    "tenant.enable",
    "key.create",
    "key.change",
    "key.revoke",
    "person.create",
    "person.change",
    "person.role",
    "person.password",
    "person.link",
    "person.disable",
    "person.enable",
    "person.unlock",
    "person.delete",
    "host.drain",
    "event.accepted",
    "event.refused",
    "webhook_secret.create",
    "webhook_secret.rotate",
    "webhook_secret.revoke",
    "webhook.create",
    "webhook.change",
    "webhook.rotate",
    "webhook.enable",
    "webhook.disable",
    "webhook.delete",
    "webhook.test",
    "webhook.redeliver",
    "audit.export",
    "audit.prune",
]
ACTIONS: dict[Action, str] = {
    "session.create": "A session was asked for, or a warm desktop was claimed.",
    "session.view": "A desktop was opened by somebody who may only watch it.",
    "session.control": "A desktop was opened by somebody who may use its keyboard and mouse.",
    "session.port": "A port of a sandbox was opened.",
    "session.devtools": "Chrome DevTools of a desktop's browser were opened.",
    "session.input": "Keys, pointer or clipboard of a desktop were used through the input API.",
    "session.screenshot": "A picture of a desktop was read.",
    "session.terminate": "A session's end was asked for; by `worker`: it ended, and `detail` says how.",
    "session.pause": "A session was to be paused.",
    "session.resume": "A session was to run on.",
    "session.renew": "A session was given a later end.",
    "session.labels": "A session's labels were changed.",
    "help.ask": "A person was called to a desktop; `detail` says what for.",
    "help.end": "That person is not needed any more, or the call was taken back.",
    "stream.close": "Somebody's stream was closed by an operator.",
    "ticket.create": "A ticket for a session's stream was made.",
    "ticket.revoke": "Such a ticket was revoked.",
    "lease.take": "Somebody took a desktop's keyboard and mouse; `detail` says from whom, why, and whether by"
    " force or merely by acting.",
    "lease.give": "Whoever had them gave them to another one, who had asked.",
    "lease.release": "They were given back, or taken from whoever had them by an admin (`force`).",
    "lease.request": "Somebody asked for them.",
    "lease.expire": "They were nobody's any more: their time was `over`, he was `idle`, `disconnected` or"
    " `out`, or the desktop had `ended`.",
    "thumbnails.view": "Small pictures of the tenant's desktops were read, as a wall shows them.",
    "service.open": "A service beside the viewer was opened.",
    "entry.ticket": "A one-time ticket for a desktop's own page, or for a service, was made.",
    "entry.open": "Such a ticket was used.",
    "document.create": "A document was put down.",
    "document.change": "Another content, or title, was put in a document's place.",
    "document.delete": "A document was deleted.",
    "share.create": "A link was made by which a session is watched without an account.",
    "share.open": "A browser came by such a link, or was refused.",
    "share.revoke": "Such a link was revoked.",
    "sign_in.ok": "Somebody signed in with a browser.",
    "sign_in.failed": "Somebody tried to, with what is wrong, used up or over.",
    "sign_in.locked": "A name or an address was locked out after too many failures.",
    "sign_in.end": "A sign-in was ended by somebody else than its browser.",
    "sign_in.link": "A one-time sign-in link was made.",
    "sign_out": "A browser signed out.",
    "tenant.create": "A tenant was added.",
    "tenant.disable": "A tenant was taken out of the inventory: nobody of it comes in.",
    "tenant.enable": "Such a tenant is in the inventory again.",
    "key.create": "An API key was made.",
    "key.change": "A key that the inventory declares got another secret, tenant or role.",
    "key.revoke": "An API key was revoked, or taken out of the inventory.",
    "person.create": "A person was added.",
    "person.change": "A person's name or sign-in name was changed.",
    "person.role": "A person's role was changed.",
    "person.password": "A person's password was set.",
    "person.link": "A link to set a person's password was made.",
    "person.disable": "A person was locked out by an admin.",
    "person.enable": "A person was let in again by an admin.",
    "person.unlock": "A name was freed of its failed attempts before their time was over.",
    "person.delete": "A person was deleted.",
    "host.drain": "A host was to get no new sandboxes, or to get some again.",
    "event.accepted": "An event of an outside system was taken in.",
    "event.refused": "An event of an outside system was refused.",
    "webhook_secret.create": "A secret for events of an outside system was made.",
    "webhook_secret.rotate": "Such a secret got a successor.",
    "webhook_secret.revoke": "Such a secret was revoked.",
    "webhook.create": "An address that events are sent to was added.",
    "webhook.change": "Such an address, its label or its types were changed.",
    "webhook.rotate": "Such an address got another secret.",
    "webhook.enable": "Such an address was switched on.",
    "webhook.disable": "Such an address was switched off, by somebody or for its failures.",
    "webhook.delete": "Such an address was deleted.",
    "webhook.test": "A trial event was sent to such an address.",
    "webhook.redeliver": "An event was to be sent once more.",
    "audit.export": "The audit log was exported.",
    "audit.prune": "Old entries of the audit log were exported to a file and taken out.",
}
"""Each action with its meaning, for the documentation."""

Outcome: TypeAlias = Literal["done", "refused", "failed"]
Detail: TypeAlias = Mapping[str, object]
"""Small, and without any secret: what the target and the action do not say yet. JSON's own types alone."""


class Actor(Frozen):
    """Who acts. principal: `key:…`, `person:…`, `link:…`, `share:…` (whoever has that link),
    `webhook_secret:…` (who signed an event); `worker`,
    `deploy` (the settings, when the viewer starts), `host:<user>` (the command line there), or `nobody`: no
    credential, or none that is good."""

    principal: str
    address: str | None = None
    request_id: str | None = None


class Entry(Frozen):
    """One entry as it is kept. `action` may be a word of an earlier version."""

    tenant_id: str
    number: int
    at: datetime
    principal: str
    principal_name: str
    address: str | None
    action: str
    target: str | None
    outcome: str
    detail: dict[str, object] | None
    request_id: str | None
    chain: str

    def canonical(self) -> str:
        """What its chain is over, after the one before: JSON of all fields but `chain`, names sorted, no
        space between, all beyond ASCII escaped, the time in UTC with microseconds."""
        fields = self.model_dump(exclude={"chain"})
        return _json({**fields, "at": self.at.astimezone(UTC).isoformat(timespec="microseconds")})

    def line(self) -> str:
        """The same with its chain: a line of an export."""
        return _json({**json.loads(self.canonical()), "chain": self.chain})


# --- who acts ---------------------------------------------------------------------------------------

_actor: ContextVar[Actor | None] = ContextVar("who makes this request", default=None)
_program = Actor(principal="deskfleet")


def acts_as(principal: str) -> None:
    """Whoever this whole program acts for, in each thread, where it works on no request."""
    global _program
    _program = Actor(principal=principal)


@contextmanager
def acting(principal: str) -> Iterator[None]:
    """The same, for what is done inside by this thread."""
    token = _actor.set(Actor(principal=principal))
    try:
        yield
    finally:
        _actor.reset(token)


def in_request(address: str, request_id: str) -> None:
    """A request begins in this thread, of nobody yet; what was said of an earlier one is gone."""
    _actor.set(Actor(principal="nobody", address=_clean(address) or None, request_id=request_id))


def by(principal: str) -> None:
    """The request's credential is good: all that it does is this principal's doing."""
    _actor.set(actor().model_copy(update={"principal": principal}))


def over() -> None:
    """The request is answered: what its thread does next is not its doing."""
    _actor.set(None)


def actor() -> Actor:
    return _actor.get() or _program


# --- writing ----------------------------------------------------------------------------------------


def note(
    orm: OrmSession,
    tenant_id: str,
    action: Action,
    target: str | None,
    *,
    outcome: Outcome = "done",
    detail: Detail | None = None,
    principal: str | None = None,
) -> None:
    """Write an entry into the tenant's log, in the transaction of the change that it tells of.

    target: what was acted on, with its kind: `session:<id>`, `key:<id>`, `person:<id>`, `host:<name>`.
    principal: instead of whoever the request is known to be of; for sign-ins, which make it known.
    """
    # What is pending belongs to the caller, who may still ask what is new about it.
    with orm.no_autoflush:
        who = actor()
        name = principal or who.principal
        chain = _chain_of(orm, tenant_id)
        entry = Entry(
            tenant_id=tenant_id,
            number=chain.number + 1,
            at=utcnow(),
            principal=_clean(name),
            principal_name=_clean(name_of(orm, name)),
            address=who.address,
            action=action,
            target=None if target is None else _clean(target),
            outcome=outcome,
            detail=None if detail is None else {name: _clean_all(value) for name, value in detail.items()},
            request_id=who.request_id,
            chain="",
        )
        chain.number, chain.chain = entry.number, chain_after(chain.chain, entry)
        orm.add(AuditRow(**{**dict(entry), "chain": chain.chain}))


def chain_after(before: str, entry: Entry) -> str:
    """What the entry's chain must be when that is the chain of the one before it."""
    return hashlib.sha256(f"{before}\n{entry.canonical()}".encode()).hexdigest()


def broken(entries: Iterable[Entry], *, number: int = 0, chain: str = START) -> Iterator[str]:
    """What is wrong with these entries of one tenant, a sentence each; they follow on that number and chain.

    After a wrong one it goes on with what that says of itself, so that one wrong entry is one sentence.
    """
    for entry in entries:
        if entry.number > number + 1:
            missing = f"{number + 1}" if entry.number == number + 2 else f"{number + 1} to {entry.number - 1}"
            yield f"{entry.tenant_id}: entry {missing} is missing"
        elif entry.number <= number:
            yield f"{entry.tenant_id}: entry {entry.number} is there more than once, or out of order"
        elif entry.chain != chain_after(chain, entry):
            yield f"{entry.tenant_id}: entry {entry.number} was changed, put in, or follows one that was"
        number, chain = entry.number, entry.chain


def entry_of(row: AuditRow) -> Entry:
    return Entry.model_validate(row, from_attributes=True)


def _chain_of(orm: OrmSession, tenant_id: str) -> AuditChainRow:
    chain = orm.get(AuditChainRow, tenant_id)
    if chain is None:
        first = {"tenant_id": tenant_id, "number": 0, "chain": START, "pruned_chain": START}
        orm.execute(insert(AuditChainRow).values(first))
        chain = orm.get_one(AuditChainRow, tenant_id)
    return chain


def name_of(orm: OrmSession, principal: str) -> str:
    """What he is called now: a person's name, the label of a key or a webhook secret; else the word."""
    kind, _, ident = principal.partition(":")
    if kind == "key":
        key = orm.get(ApiKeyRow, ident)
        return (key.label if key is not None else "") or ident
    if kind == "person":
        person = orm.get(PersonRow, ident)
        return person.name if person is not None else ident
    if kind == "webhook_secret":
        secret = orm.get(WebhookSecretRow, ident)
        return secret.label if secret is not None else ident
    if kind == "share":
        link = orm.get(ShareLinkRow, ident)
        return (link.label if link is not None else "") or "share link"
    return {"worker": "the worker", "deploy": "the deploy", "link": "sign-in link"}.get(kind, principal)


def _clean(text: str) -> str:
    """Without what no database or page likes to hold: control characters, halves of surrogates."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text[:_LONGEST])


def _clean_all(value: object) -> object:
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, list | tuple):
        return [_clean_all(one) for one in value]
    if isinstance(value, Mapping):
        return {_clean(str(name)): _clean_all(one) for name, one in value.items()}
    return value


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
