"""Keys and certificates: what is in them, who may read them, and what a second call keeps."""

import datetime
import ipaddress
import stat
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from fedrecon_core.errors import UsageError
from server.engines import certificates
from server.engines.certificates import write_certificates

pytestmark = pytest.mark.quick


def make(out, *, hosts=("fed.example.org", "10.0.0.5"), sites=("north",), days=30) -> list[str]:
    return list(write_certificates(out, hosts, sites, days))


def certificate(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_server_certificate_names_every_host_and_is_signed_by_the_authority(tmp_path):
    make(tmp_path)
    server, authority = certificate(tmp_path / "server.crt"), certificate(tmp_path / "ca.crt")
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fed.example.org"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("10.0.0.5")]
    assert (server.not_valid_after_utc - server.not_valid_before_utc).days == 30


def test_private_keys_are_for_their_owner_alone_and_a_site_has_a_pair_on_p384(tmp_path):
    make(tmp_path)
    for name in ("ca.key", "server.key", "sites/north.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    key = load_ssh_private_key((tmp_path / "sites" / "north.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP384R1)
    public = load_ssh_public_key((tmp_path / "sites" / "north.pub").read_bytes())
    assert public.public_numbers() == key.public_key().public_numbers()


def test_a_second_call_keeps_every_key_adds_sites_and_renews_the_server_certificate(tmp_path):
    make(tmp_path)
    kept = {name: (tmp_path / name).read_bytes() for name in ("ca.key", "ca.crt", "server.key", "sites/north.key")}
    before = certificate(tmp_path / "server.crt").serial_number
    lines = make(tmp_path, sites=("north", "south"))
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept
    assert certificate(tmp_path / "server.crt").serial_number != before
    assert (tmp_path / "sites" / "south.key").exists()
    assert any(line.startswith("kept") and "north.key" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hosts": ("a b",)}, "--host: expected a host name or an IP address, found 'a b'"),
        ({"sites": ("../x",)}, "--site: expected letters"),
    ],
)
def test_an_invalid_name_is_refused_before_anything_is_written(tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        make(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_authority_without_its_key_is_refused(tmp_path):
    make(tmp_path)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(UsageError, match=r"found ca\.crt without ca\.key, which signs certificates; restore ca\.key"):
        make(tmp_path)


def test_an_authority_of_another_key_is_refused(tmp_path):
    make(tmp_path / "a")
    make(tmp_path / "b")
    (tmp_path / "a" / "ca.key").replace(tmp_path / "b" / "ca.key")
    with pytest.raises(UsageError, match=r"expected the certificate of ca\.key, found that of another key"):
        make(tmp_path / "b")


def test_sites_that_trust_a_lost_certificate_of_the_authority_trust_the_one_created_from_its_key(tmp_path):
    make(tmp_path)
    lost = certificate(tmp_path / "ca.crt")
    (tmp_path / "ca.crt").unlink()
    lines = make(tmp_path)
    assert any(line.startswith("wrote") and "ca.crt" in line for line in lines)
    for authority in (lost, certificate(tmp_path / "ca.crt")):
        certificate(tmp_path / "server.crt").verify_directly_issued_by(authority)


@pytest.mark.parametrize("fault", ["lost", "foreign"])
def test_a_public_key_that_is_lost_or_wrong_follows_from_the_private_one(tmp_path, fault):
    make(tmp_path)
    path = tmp_path / "sites" / "north.pub"
    right = path.read_bytes()
    path.unlink() if fault == "lost" else path.write_text("ssh-ed25519 AAAA someone\n")
    lines = make(tmp_path)
    assert path.read_bytes() == right
    assert f"kept     {tmp_path}/sites/north.key; wrote north.pub again from it" in lines
    assert f"kept     {tmp_path}/sites/north.key" in make(tmp_path)


@pytest.mark.parametrize(("mode", "left"), [(0o644, 0o600), (0o640, 0o600), (0o444, 0o400)])
@pytest.mark.parametrize("name", ["ca.key", "server.key", "sites/north.key"])
def test_a_private_key_that_others_could_read_is_closed_with_a_note(tmp_path, name, mode, left):
    make(tmp_path)
    (tmp_path / name).chmod(mode)
    [note] = [line for line in make(tmp_path) if line.startswith("closed")]
    assert f"{tmp_path / name}  other users had permissions on it ({mode:04o}), now only its owner has" in note
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == left
    assert not any(line.startswith("closed") for line in make(tmp_path))


def test_a_key_is_never_readable_by_others_and_never_half_written(tmp_path, monkeypatch):
    seen = []

    def broken(partial, content):
        seen.append(stat.S_IMODE(partial.stat().st_mode))
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", broken)
        with pytest.raises(UsageError, match="cannot be written: No space left"):
            make(tmp_path)
    assert seen == [0o600]
    assert [path.name for path in tmp_path.iterdir()] == ["sites"]
    make(tmp_path)


def later(monkeypatch, days: int) -> None:
    """Let ``days`` go by."""

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + datetime.timedelta(days=days)

    clock = SimpleNamespace(datetime=Clock, UTC=datetime.UTC, timedelta=datetime.timedelta)
    monkeypatch.setattr(certificates, "datetime", clock)


def test_the_output_names_the_last_day_of_a_certificate(tmp_path):
    lines = make(tmp_path, days=30)
    until = f"{datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=30):%Y-%m-%d}"
    [line] = [line for line in lines if "server.crt" in line]
    assert line.endswith(f"fed.example.org, 10.0.0.5; valid until {until}")


def test_a_server_certificate_does_not_outlive_its_authority(tmp_path, monkeypatch):
    make(tmp_path)
    ends = certificate(tmp_path / "ca.crt").not_valid_after_utc
    later(monkeypatch, 3640)
    [line] = [line for line in make(tmp_path, days=825) if "server.crt" in line]
    assert certificate(tmp_path / "server.crt").not_valid_after_utc == ends
    assert line.endswith(f"valid until {ends:%Y-%m-%d} (the authority expires then)")


def test_an_expired_authority_is_refused_with_what_to_do(tmp_path, monkeypatch):
    make(tmp_path)
    key, server = ((tmp_path / name).read_bytes() for name in ("ca.key", "server.crt"))
    later(monkeypatch, 3651)
    words = r"ca\.crt expired on \d{4}-\d\d-\d\d; remove it and run this again, then copy the new ca\.crt to every"
    with pytest.raises(UsageError, match=words):
        make(tmp_path)
    assert (tmp_path / "server.crt").read_bytes() == server
    (tmp_path / "ca.crt").unlink()
    make(tmp_path)
    assert (tmp_path / "ca.key").read_bytes() == key
    certificate(tmp_path / "server.crt").verify_directly_issued_by(certificate(tmp_path / "ca.crt"))
