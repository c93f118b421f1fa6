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
    """Write the files that are missing, and a new server certificate for ``hosts``; yields a line for each file.

    ``ca.crt`` goes to every machine, ``server.crt`` and ``server.key`` to the SuperLink, ``sites/<name>.key`` to its
    site alone; ``sites/<name>.pub`` is registered. ``ca.key`` signs certificates and is copied nowhere. Private keys
    are readable by their owner only and never overwritten. Raises ``UsageError`` for an invalid name of a host or a
    site, and for an authority that has expired.
    """
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if not HOST.fullmatch(host):
                raise UsageError(f"--host: expected a host name or an IP address, found '{host}'") from None
            names.append(x509.DNSName(host))
    for site in sites:
        if not SITE_NAME.fullmatch(site):
            raise UsageError(f"--site: expected {SITE_NAME_RULE}, found '{site}'")
    try:
        (out / "sites").mkdir(parents=True, exist_ok=True)
        authority, signer = yield from _authority(out)
        yield from _server_certificate(out, names, days, authority, signer)
        for site in sites:
            yield from _site_key(out / "sites" / site)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror}") from None


def _authority(out: Path) -> Generator[str, None, tuple[x509.Certificate, ec.EllipticCurvePrivateKey]]:
    """The authority's certificate and key, created if they do not exist. A lost certificate is created again from the
    key: sites that trust the lost one trust the new one, too."""
    key_path, path = out / "ca.key", out / "ca.crt"
    if path.exists() and not key_path.exists():
        raise UsageError(
            f"{out}: found ca.crt without ca.key, which signs certificates; restore ca.key, or choose another --out"
        )
    key, created = yield from _private_key(key_path)
    if path.exists():
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
        except ValueError as error:
            raise UsageError(f"{path}: expected a certificate, found a file that cannot be read: {error}") from None
        if certificate.public_key() != key.public_key():
            raise UsageError(f"{path}: expected the certificate of ca.key, found that of another key; restore it")
        if certificate.not_valid_after_utc <= datetime.datetime.now(datetime.UTC):
            todo = "remove it and run this again, then copy the new ca.crt to every machine and restart what reads it"
            raise UsageError(f"the authority {path} expired on {_day(certificate)}; {todo}")
        yield f"kept     {path}  (the authority, valid until {_day(certificate)})"
        return certificate, key
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "FedRecon federation authority")])
    builder = _builder(name, name, key.public_key(), AUTHORITY_DAYS, authority=True)
    certificate = builder.sign(key, hashes.SHA384())
    _write(path, certificate.public_bytes(_PEM))
    yield f"wrote    {path}  for every machine; valid until {_day(certificate)}"
    if created:
        yield f"wrote    {key_path}  keep it here: whoever has it can impersonate the SuperLink"
    return certificate, key


def _server_certificate(
    out: Path, names: list[x509.GeneralName], days: int, authority: x509.Certificate, signer: ec.EllipticCurvePrivateKey
) -> Iterator[str]:
    """Write a new certificate for the SuperLink under ``names``, valid for ``days`` or until the authority expires."""
    key, created = yield from _private_key(out / "server.key")
    if created:
        yield f"wrote    {out / 'server.key'}  for the SuperLink's machine"
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "FedRecon SuperLink")])
    builder = _builder(subject, authority.subject, key.public_key(), days, authority.not_valid_after_utc)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    certificate = builder.add_extension(identifier, critical=False).sign(signer, hashes.SHA384())
    _write(out / "server.crt", certificate.public_bytes(_PEM))
    capped = certificate.not_valid_after_utc == authority.not_valid_after_utc
    shown, ends = ", ".join(str(name.value) for name in names), " (the authority expires then)" if capped else ""
    yield f"wrote    {out / 'server.crt'}  for the SuperLink's machine: {shown}; valid until {_day(certificate)}{ends}"


def _site_key(stem: Path) -> Iterator[str]:
    """Write a site's ECDSA P-384 key pair in OpenSSH's format, as Flower's SuperNode authentication expects it. The
    public key is always derived from the private one."""
    path = stem.with_name(f"{stem.name}.pub")
    key, created = yield from _private_key(stem.with_name(f"{stem.name}.key"), serialization.PrivateFormat.OpenSSH)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    kept = path.exists() and path.read_bytes().split()[:2] == public.split()
    if not kept:
        _write(path, public + f" {stem.name}\n".encode())
    if created:
        yield f"wrote    {stem}.key  for that site alone; register {path.name} with the SuperLink"
    else:
        yield f"kept     {stem}.key" + ("" if kept else f"; wrote {path.name} again from it")


def _private_key(
    path: Path, form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8
) -> Generator[str, None, tuple[ec.EllipticCurvePrivateKey, bool]]:
    """The private key in ``path``, created if it does not exist; and whether it was created. Permissions of other users
    on an existing key are removed."""
    if not path.exists():
        key = ec.generate_private_key(ec.SECP384R1())
        _write(path, key.private_bytes(_PEM, form, serialization.NoEncryption()), mode=0o600)
        return key, True
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & ~0o600:
        path.chmod(mode & 0o600)
        yield (
            f"closed   {path}  other users had permissions on it ({mode:04o}), now only its owner has; if someone may "
            "have read it, replace it"
        )
    ssh = form is serialization.PrivateFormat.OpenSSH
    load = serialization.load_ssh_private_key if ssh else serialization.load_pem_private_key
    try:
        found = load(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a password
        raise UsageError(f"{path}: expected a private key, found a file that cannot be read: {error}") from None
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise UsageError(f"{path}: expected an elliptic-curve key, found a key of another kind")
    return found, False


def _write(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Replace the whole file. It has at most the permissions ``mode`` from the beginning, so that nobody can read a key
    while it is written."""

    def write(partial: Path) -> None:
        partial.unlink(missing_ok=True)
        partial.touch(mode=mode)
        partial.write_bytes(content)

    replace_file(path, write)


def _day(certificate: x509.Certificate) -> str:
    return f"{certificate.not_valid_after_utc:%Y-%m-%d}"


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    days: int,
    latest: datetime.datetime | None = None,
    authority: bool = False,
) -> x509.CertificateBuilder:
    """A certificate for ``key``, valid for ``days`` from now, at most until ``latest``. An ``authority`` may sign
    certificates, any other key only messages."""
    now = datetime.datetime.now(datetime.UTC)
    last = now + datetime.timedelta(days=days)
    usage = x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
    builder = builder.not_valid_after(last if latest is None else min(last, latest))
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    constraints = x509.BasicConstraints(ca=authority, path_length=0 if authority else None)
    return builder.add_extension(constraints, critical=True).add_extension(usage, critical=True)
