"""Who has come back from the provider, and where the rules put him. No more than words: every program of ours
that opens the database reads this module, and the libraries that check tokens take a tenth of a second."""

from __future__ import annotations

from viewer.model import Frozen, Role


class Place(Frozen):
    """Where the rules put somebody."""

    tenant: str
    role: Role


class Arrival(Frozen):
    """Somebody whom the provider has shown to be who he says. provider: what people call it."""

    provider: str
    issuer: str
    subject: str
    login: str | None
    login_claim: str
    name: str | None
