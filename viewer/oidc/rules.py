"""Who somebody is here: the settings' rules, applied to what the provider says of him. Pure.

A claim is only ever compared with a rule. Its text never names a tenant or a role by itself.
"""

from __future__ import annotations

from viewer.oidc import failures
from viewer.oidc.arrivals import Place
from viewer.oidc.tokens import Claims
from viewer.settings import OidcRule, OidcSettings


def place_of(claims: Claims, settings: OidcSettings) -> Place:
    """By the first rule that fits; raise SignInFailed where none does."""
    for rule in settings.rules:
        if _fits(rule, claims, settings):
            return Place(tenant=rule.tenant, role=rule.role)
    raise failures.no_rule(settings.name)


def needed_claims(settings: OidcSettings) -> frozenset[str]:
    """What must be known of somebody to say who he is."""
    needed = {settings.login_claim}
    for rule in settings.rules:
        if rule.group is not None:
            needed.add(settings.groups_claim)
        if rule.email_domain is not None:
            needed |= {"email", "email_verified"}
        if rule.claim is not None:
            needed.add(rule.claim)
    return frozenset(needed)


def _fits(rule: OidcRule, claims: Claims, settings: OidcSettings) -> bool:
    return all(
        (
            rule.group is None or rule.group in claims.texts(settings.groups_claim),
            rule.email_domain is None or rule.email_domain == _verified_domain(claims),
            rule.claim is None or rule.value in claims.texts(rule.claim),
        )
    )


def _verified_domain(claims: Claims) -> str | None:
    """Of an address that its owner could have typed anywhere, unless the provider has looked."""
    address = claims.text("email")
    if address is None or claims.at("email_verified") is not True or address.count("@") != 1:
        return None
    return address.partition("@")[2].lower()
