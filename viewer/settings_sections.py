"""The parts of the Settings page, and whom each is for: the same role and scope as the API behind it."""

from __future__ import annotations

from viewer.model import Frozen, Principal, Role, Scope


class Section(Frozen):
    """scope None: for whatever a key may be used for."""

    name: str
    label: str
    role: Role
    scope: Scope | None

    def is_for(self, who: Principal) -> bool:
        return who.role.covers(self.role) and (self.scope is None or who.may(self.scope))


SECTIONS = (
    Section(name="keys", label="API keys", role=Role.ADMIN, scope=Scope.MANAGE),
    Section(name="people", label="People", role=Role.ADMIN, scope=Scope.MANAGE),
    Section(name="shares", label="Share links", role=Role.OPERATOR, scope=Scope.STREAMS),
    Section(name="webhooks", label="Webhooks", role=Role.ADMIN, scope=Scope.MANAGE),
    Section(name="audit", label="Audit log", role=Role.ADMIN, scope=Scope.MANAGE),
    Section(name="appearance", label="Appearance", role=Role.WATCHER, scope=None),
)


def section_named(name: str) -> Section | None:
    return next((one for one in SECTIONS if one.name == name), None)


def sections_for(who: Principal) -> tuple[Section, ...]:
    return tuple(one for one in SECTIONS if one.is_for(who))
