"""Keys and certificates: what is in them, who may read them, and what a second call keeps."""

import ipaddress
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from fedrecon_core.errors import UsageError
from server.certificates import write_certificates

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
    said = make(tmp_path, sites=("north", "south"))
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept
    assert certificate(tmp_path / "server.crt").serial_number != before
    assert (tmp_path / "sites" / "south.key").exists()
    assert any(line.startswith("kept") and "north.key" in line for line in said)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hosts": ("a b",)}, "--host: expected a host name or an IP address, found 'a b'"),
        ({"sites": ("../x",)}, "--site: expected letters"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_before_anything_is_written(tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        make(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_half_an_authority_is_refused(tmp_path):
    make(tmp_path)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(UsageError, match=r"holds only one of ca\.key and ca\.crt"):
        make(tmp_path)
