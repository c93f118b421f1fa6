"""Keys and certificates of a federation: a small authority, the SuperLink's certificate, and a key pair per site."""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedrecon_core.errors import UsageError

AUTHORITY_DAYS = 3650
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
HOST = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")
_PEM = serialization.Encoding.PEM


def write_certificates(out: Path, hosts: Sequence[str], sites: Sequence[str], days: int) -> Iterator[str]:
    """Write what is not there yet, and a fresh server certificate for ``hosts``; yields a line for each file.

    ``ca.crt`` goes to every machine, ``server.crt`` and ``server.key`` to the SuperLink, ``sites/<name>.key`` to its
    site alone; ``sites/<name>.pub`` is registered. ``ca.key`` signs, and stays where it is. Private keys are
    readable by their owner only and never overwritten. Raises ``UsageError`` for a name that cannot be one.
    """
    names = [_alternative(host) for host in hosts]
    for site in sites:
        if not NAME.fullmatch(site):
            raise UsageError(f"--site: expected letters, digits, '_', '.', '-' (not first), found '{site}'")
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
    """The authority's certificate and key."""
    key_path, path = out / "ca.key", out / "ca.crt"
    if path.exists() != key_path.exists():
        raise UsageError(f"{out} holds only one of ca.key and ca.crt; restore the other, or choose another --out")
    key, made = _key(key_path)
    if not made:
        yield f"kept     {path}  (the authority)"
        return x509.load_pem_x509_certificate(path.read_bytes()), key
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "FedRecon federation authority")])
    builder = _builder(name, name, key.public_key(), AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    certificate = builder.sign(key, hashes.SHA384())
    path.write_bytes(certificate.public_bytes(_PEM))
    yield f"wrote    {path}  for every machine"
    yield f"wrote    {key_path}  stays here: whoever has it can pose as the SuperLink"
    return certificate, key


def _server(
    out: Path, names: list[x509.GeneralName], days: int, authority: x509.Certificate, signer: ec.EllipticCurvePrivateKey
) -> Iterator[str]:
    key, made = _key(out / "server.key")
    if made:
        yield f"wrote    {out / 'server.key'}  for the SuperLink's machine"
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "FedRecon SuperLink")])
    builder = _builder(subject, authority.subject, key.public_key(), days)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    certificate = builder.add_extension(identifier, critical=False).sign(signer, hashes.SHA384())
    (out / "server.crt").write_bytes(certificate.public_bytes(_PEM))
    shown = ", ".join(str(name.value) for name in names)
    yield f"wrote    {out / 'server.crt'}  for the SuperLink's machine: {shown}, {days} days"


def _site(stem: Path) -> Iterator[str]:
    """An ECDSA P-384 pair in OpenSSH's form, which Flower's SuperNode authentication takes."""
    key, made = _key(stem.with_name(f"{stem.name}.key"), serialization.PrivateFormat.OpenSSH)
    if not made:
        yield f"kept     {stem}.key"
        return
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    stem.with_name(f"{stem.name}.pub").write_bytes(public + f" {stem.name}\n".encode())
    yield f"wrote    {stem}.key  for that site alone; {stem.name}.pub is registered with the SuperLink"


def _key(
    path: Path, form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8
) -> tuple[ec.EllipticCurvePrivateKey, bool]:
    """The private key in ``path``, made if there is none; and whether it was made."""
    if path.exists():
        ssh = form is serialization.PrivateFormat.OpenSSH
        load = serialization.load_ssh_private_key if ssh else serialization.load_pem_private_key
        try:
            found = load(path.read_bytes(), None)
        except ValueError as error:
            raise UsageError(f"{path} is no private key that can be read: {error}") from None
        if not isinstance(found, ec.EllipticCurvePrivateKey):
            raise UsageError(f"{path}: expected an elliptic-curve key, found another kind")
        return found, False
    key = ec.generate_private_key(ec.SECP384R1())
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(_PEM, form, serialization.NoEncryption()))
    return key, True


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
    builder = builder.not_valid_after(now + datetime.timedelta(days=days))
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
