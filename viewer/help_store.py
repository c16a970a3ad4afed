"""Calls for a person: an agent cannot go on alone, says why, and hears when somebody has helped.

A call is a part of its session's row, so that whoever sees the session sees it, and every change of it goes
out as one of the session. It ends by whoever made it, by a person, or with its session.
"""

from __future__ import annotations

from viewer import audit
from viewer.database import Database
from viewer.leases import kind_of
from viewer.model import HelpCall, LeaseKind, Principal, Role, Session, Status, utcnow
from viewer.rows import SessionChanges, change, end_of_call, own_row, session_of
from viewer.transitions import check_transition


class NotHisCall(Exception):
    """Another one has called, and only he, a person or an admin may say that it is done."""

    def __init__(self, call: HelpCall) -> None:
        super().__init__(f"{call.asked_by} has called")
        self.call = call


def check_may_end(call: HelpCall, who: Principal) -> None:
    """Raises NotHisCall."""
    is_a_persons = kind_of(who) is LeaseKind.PERSON
    if not (is_a_persons or who.id == call.asked_by or who.role.covers(Role.ADMIN)):
        raise NotHisCall(call)


class HelpStore:
    """One tenant's."""

    def __init__(self, database: Database, tenant_id: str) -> None:
        self._database = database
        self._tenant_id = tenant_id

    def ask(self, session_id: str, reason: str, who: Principal) -> Session:
        """A person is needed there, for that reason instead of an earlier one. Whoever calls again has waited
        since his first call. Raises SessionNotFound, and IllegalTransition for one that has ended."""
        with self._database.writing() as orm:
            row = own_row(orm, self._tenant_id, session_id)
            check_transition(Status(row.status), Status(row.status))
            if (row.help_reason, row.help_asked_by) == (reason, who.id):
                return session_of(row)
            now = utcnow()
            is_again = row.help_reason is not None and row.help_asked_by == who.id
            changes: SessionChanges = {
                "help_reason": reason,
                "help_asked_by": who.id,
                "help_asked_at": row.help_asked_at if is_again else now,
                # Else it might end for idleness while it waits for somebody.
                "last_used_at": now,
            }
            change(orm, row, changes, by=who.id)
            audit.note(orm, self._tenant_id, "help.ask", f"session:{row.id}", detail={"reason": reason})
            return session_of(row)

    def end(self, session_id: str, who: Principal) -> Session:
        """Nobody is needed there any more; nothing happens where nobody was. Raises SessionNotFound,
        NotHisCall."""
        with self._database.writing() as orm:
            row = own_row(orm, self._tenant_id, session_id)
            call = session_of(row).help
            if call is None:
                return session_of(row)
            check_may_end(call, who)
            change(orm, row, {**end_of_call(who.id), "last_used_at": utcnow()}, by=who.id)
            detail = {"asked_by": call.asked_by}
            audit.note(orm, self._tenant_id, "help.end", f"session:{row.id}", detail=detail)
            return session_of(row)

    def name_of_who_ended(self, session: Session) -> str | None:
        """None where no call of that session has ended yet."""
        if session.help_ended_by is None:
            return None
        with self._database.reading() as orm:
            return audit.name_of(orm, session.help_ended_by)
