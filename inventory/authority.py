"""The site's private authority: what certificates its hosts must have, and which must be made anew.

A host's certificate says who may let whom in: every host serves with it, only those of the edge and of the
control host may also be shown to another host's Caddy.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from inventory.models import Certificates, Group, Host, KeyPair, Site, node_name

AUTHORITY_LIFE = timedelta(days=3653)
HOST_LIFE = timedelta(days=90)
RENEWAL = timedelta(days=30)
"""What has less than this left is made anew by the next deploy."""
AUTHORITY_WARNING = timedelta(days=180)
_SKEW = timedelta(hours=1)
"""A host whose clock is a little behind must not find a new certificate not yet valid."""
_CLIENTS = {Group.EDGE, Group.CONTROL}


def renewed(
    certificates: Certificates | None, site: Site, now: datetime, *, left: timedelta = RENEWAL
) -> Certificates:
    """The certificates that this site needs, with as many as possible of those it has.

    The answer equals `certificates` exactly when nothing is to be made: a host's is kept while it has `left`
    to go and says what the site file says. Those of hosts that are not in the site file stay as they are.
    """
    authority = certificates.authority if certificates else None
    if authority is None or ends(authority) - now < left:
        authority = _new_authority(now)
    known = certificates.hosts if certificates else {}
    former = dict(certificates.former) if certificates else {}
    made = dict(known)
    for name, host in site.hosts.items():
        pair = known.get(name)
        fits = pair is not None and ends(pair) - now >= left and _says(pair, authority, name, host)
        made[name] = pair if pair and fits else _issue(authority, name, host, now)
        if pair and not fits:
            former[name] = ends(pair)
    return Certificates(authority=authority, hosts=made, former=_worth_a_word(former, now))


def with_new_authority(certificates: Certificates, now: datetime) -> Certificates:
    """The same under an authority that signed none of them: `renewed` replaces them all, and knows who has
    which."""
    return certificates.model_copy(update={"authority": _new_authority(now)})


def _worth_a_word(former: Mapping[str, datetime], now: datetime) -> dict[str, datetime]:
    """Without those long past: the host has the new certificate by now, or everybody has noticed."""
    return {name: end for name, end in former.items() if now - end < RENEWAL}


def left_behind(certificates: Certificates | None, reached: Collection[str]) -> list[str]:
    """What the end of a roll-out says of hosts that it brought no certificate to. `reached`: those it did."""
    former = certificates.former if certificates else {}
    return [
        f"The certificate of {name} was renewed, and this roll-out did not bring it there; unless an earlier"
        f" one did, {name} has one that ends on {end:%Y-%m-%d}. Roll out {name}."
        for name, end in former.items()
        if name not in reached
    ]


def warnings(certificates: Certificates | None, now: datetime) -> list[str]:
    """What a person must do soon; sentences for the end of a roll-out."""
    if certificates is None:
        return []
    end = ends(certificates.authority)
    said = []
    if end - now < AUTHORITY_WARNING:
        said.append(
            f"The site's authority ends on {end:%Y-%m-%d}; a roll-out after"
            f" `python -m inventory.keys rotate certificates` replaces it on all hosts at once."
        )
    for name, pair in certificates.hosts.items():
        if ends(pair) - now < RENEWAL:
            said.append(
                f"The certificate of {name} ends on {ends(pair):%Y-%m-%d}; the next roll-out renews it."
            )
    return said


def ends(pair: KeyPair) -> datetime:
    """When the certificate is valid no longer, in UTC."""
    return _parsed(pair).not_valid_after_utc


def _new_authority(now: datetime) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    # The number keeps two authorities apart while a roll-out replaces one by the other.
    serial = x509.random_serial_number()
    name = _named(f"Deskfleet authority {serial:x}"[:48])
    usage = _key_usage(signs_certificates=True)
    certificate = (
        _builder(now, now + AUTHORITY_LIFE, serial)
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pair(certificate, key)


def _issue(authority: KeyPair, name: str, host: Host, now: datetime) -> KeyPair:
    parent = _parsed(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    end = min(now + HOST_LIFE, parent.not_valid_after_utc)
    certificate = (
        _builder(now, end, x509.random_serial_number())
        .subject_name(_named(node_name(name)))
        .issuer_name(parent.subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(_uses(host), critical=False)
        .add_extension(_names(name, host), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(_private(authority).public_key()),
            critical=False,
        )
        .sign(_private(authority), hashes.SHA256())
    )
    return _pair(certificate, key)


def _says(pair: KeyPair, authority: KeyPair, name: str, host: Host) -> bool:
    """Is it of this authority, and does it say of the host what the site file says?"""
    certificate, parent = _parsed(pair), _parsed(authority)
    try:
        certificate.verify_directly_issued_by(parent)
    except (ValueError, InvalidSignature):
        return False
    return (
        certificate.subject == _named(node_name(name))
        and certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value == _uses(host)
        and certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        == _names(name, host)
        and certificate.public_key() == _private(pair).public_key()
    )


def _uses(host: Host) -> x509.ExtendedKeyUsage:
    asks_others = bool(_CLIENTS & set(host.groups))
    return x509.ExtendedKeyUsage([Usage.SERVER_AUTH, *([Usage.CLIENT_AUTH] if asks_others else [])])


def _names(name: str, host: Host) -> x509.SubjectAlternativeName:
    # Below its own name each of the operator's services on it has one.
    names: list[x509.GeneralName] = [x509.DNSName(node_name(name)), x509.DNSName(f"*.{node_name(name)}")]
    if host.fleet_address is not None:
        names.append(x509.IPAddress(ipaddress.IPv4Address(host.fleet_address)))
    return x509.SubjectAlternativeName(names)


def _builder(now: datetime, end: datetime, serial: int) -> x509.CertificateBuilder:
    return x509.CertificateBuilder().serial_number(serial).not_valid_before(now - _SKEW).not_valid_after(end)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _parsed(pair: KeyPair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate.encode())


def _private(pair: KeyPair) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pair.key.get_secret_value().encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not a key of an elliptic curve")
    return key


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return KeyPair(
        certificate=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key=SecretStr(plain.decode()),
    )
