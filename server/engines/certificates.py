"""Keys and certificates of a federation: a small authority, the SuperLink's certificate, and a key pair per site."""

from __future__ import annotations

import datetime
import ipaddress
import re
import stat
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedrecon_core.errors import UsageError
from fedrecon_core.files import replace_file
from fedrecon_core.types import SITE_NAME, SITE_NAME_RULE

AUTHORITY_DAYS = 3650
HOST = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")
_PEM = serialization.Encoding.PEM


def write_certificates(out: Path, hosts: Sequence[str], sites: Sequence[str], days: int) -> Iterator[str]:
    """Write what is not there yet, and a fresh server certificate for ``hosts``; yields a line for each file.

    ``ca.crt`` goes to every machine, ``server.crt`` and ``server.key`` to the SuperLink, ``sites/<name>.key`` to its
    site alone; ``sites/<name>.pub`` is registered. ``ca.key`` signs, and stays where it is. Private keys are
    readable by their owner only and never overwritten. Raises ``UsageError`` for a name that cannot be one, and for an
    authority that has expired.
    """
    names = [_alternative(host) for host in hosts]
    for site in sites:
        if not SITE_NAME.fullmatch(site):
            raise UsageError(f"--site: expected {SITE_NAME_RULE}, found '{site}'")
    try:
        (out / "sites").mkdir(parents=True, exist_ok=True)
        authority, signer = yield from _authority(out)
        yield from _server(out, names, days, authority, signer)
        for site in sites:
            yield from _site(out / "sites" / site)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror}") from None


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not HOST.fullmatch(host):
            raise UsageError(f"--host: expected a host name or an IP address, found '{host}'") from None
        return x509.DNSName(host)


def _authority(out: Path) -> Generator[str, None, tuple[x509.Certificate, ec.EllipticCurvePrivateKey]]:
    """The authority's certificate and key. A certificate that is lost is made anew from the key: sites that trust the
    lost one trust it, too."""
    key_path, path = out / "ca.key", out / "ca.crt"
    if path.exists() and not key_path.exists():
        raise UsageError(f"{out} holds ca.crt without ca.key, which signs; restore it, or choose another --out")
    key, made = yield from _key(key_path)
    if path.exists():
        certificate = _still_good(path, key)
        yield f"kept     {path}  (the authority, valid until {_day(certificate)})"
        return certificate, key
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "FedRecon federation authority")])
    builder = _builder(name, name, key.public_key(), _in(AUTHORITY_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    certificate = builder.sign(key, hashes.SHA384())
    _write(path, certificate.public_bytes(_PEM))
    yield f"wrote    {path}  for every machine; valid until {_day(certificate)}"
    if made:
        yield f"wrote    {key_path}  stays here: whoever has it can pose as the SuperLink"
    return certificate, key


def _still_good(path: Path, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """The authority in ``path``; ``UsageError`` if it has expired, or belongs to another key."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise UsageError(f"{path} is no certificate that can be read: {error}") from None
    if certificate.public_key() != key.public_key():
        raise UsageError(f"{path} belongs to another key than ca.key beside it; restore the one that belongs to it")
    if certificate.not_valid_after_utc <= _in(0):
        todo = "remove it and run this again, then copy the new ca.crt to every machine and restart what reads it"
        raise UsageError(f"the authority {path} expired on {_day(certificate)}; {todo}")
    return certificate


def _server(
    out: Path, names: list[x509.GeneralName], days: int, authority: x509.Certificate, signer: ec.EllipticCurvePrivateKey
) -> Iterator[str]:
    key, made = yield from _key(out / "server.key")
    if made:
        yield f"wrote    {out / 'server.key'}  for the SuperLink's machine"
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "FedRecon SuperLink")])
    wanted, last = _in(days), authority.not_valid_after_utc
    builder = _builder(subject, authority.subject, key.public_key(), min(wanted, last))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    certificate = builder.add_extension(identifier, critical=False).sign(signer, hashes.SHA384())
    _write(out / "server.crt", certificate.public_bytes(_PEM))
    shown, ends = ", ".join(str(name.value) for name in names), " (the authority ends then)" if last < wanted else ""
    yield f"wrote    {out / 'server.crt'}  for the SuperLink's machine: {shown}; valid until {_day(certificate)}{ends}"


def _site(stem: Path) -> Iterator[str]:
    """An ECDSA P-384 pair in OpenSSH's form, which Flower's SuperNode authentication takes. The public key always
    follows from the private one."""
    path = stem.with_name(f"{stem.name}.pub")
    key, made = yield from _key(stem.with_name(f"{stem.name}.key"), serialization.PrivateFormat.OpenSSH)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    kept = path.exists() and path.read_bytes().split()[:2] == public.split()
    if not kept:
        _write(path, public + f" {stem.name}\n".encode())
    if made:
        yield f"wrote    {stem}.key  for that site alone; {path.name} is registered with the SuperLink"
    else:
        yield f"kept     {stem}.key" + ("" if kept else f"; wrote {path.name} anew from it")


def _key(
    path: Path, form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8
) -> Generator[str, None, tuple[ec.EllipticCurvePrivateKey, bool]]:
    """The private key in ``path``, made if there is none; and whether it was made."""
    if path.exists():
        yield from _close(path)
        return _read_key(path, form), False
    key = ec.generate_private_key(ec.SECP384R1())
    _write(path, key.private_bytes(_PEM, form, serialization.NoEncryption()), mode=0o600)
    return key, True


def _close(path: Path) -> Iterator[str]:
    """Take the rights of others at a private key away."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & ~0o600:
        path.chmod(mode & 0o600)
        told = f"others had rights at it ({mode:04o}), now its owner alone; if someone may have read it, replace it"
        yield f"closed   {path}  {told}"


def _read_key(path: Path, form: serialization.PrivateFormat) -> ec.EllipticCurvePrivateKey:
    ssh = form is serialization.PrivateFormat.OpenSSH
    load = serialization.load_ssh_private_key if ssh else serialization.load_pem_private_key
    try:
        found = load(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a password
        raise UsageError(f"{path} is no private key that can be read: {error}") from None
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise UsageError(f"{path}: expected an elliptic-curve key, found another kind")
    return found


def _write(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Replace the file whole. It is made with no more rights than ``mode``, so that nobody reads a key on its way."""

    def write(partial: Path) -> None:
        partial.unlink(missing_ok=True)
        partial.touch(mode=mode)
        partial.write_bytes(content)

    replace_file(path, write)


def _in(days: int) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)


def _day(certificate: x509.Certificate) -> str:
    return f"{certificate.not_valid_after_utc:%Y-%m-%d}"


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, last: datetime.datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(_in(0) - datetime.timedelta(hours=1))  # clocks differ
    builder = builder.not_valid_after(last)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
