"""What a raw data set must hold: each file that is missing, damaged or unreadable is one line, never a traceback."""

import hashlib
from pathlib import Path

import pytest

from fedrecon_core.preparation.expected_files import CHECKSUMS, ExpectedFile, file_faults

pytestmark = pytest.mark.quick
MD5 = hashlib.md5(b"right").hexdigest()
ARCHIVE = ExpectedFile("letters.gz", "the letters as published", md5=MD5)


def a_folder(path: Path) -> None:
    path.mkdir()


def other_bytes(path: Path) -> None:
    path.write_bytes(b"wrong")


def nothing(path: Path) -> None:
    pass


def test_the_right_file_has_no_fault(tmp_path):
    (tmp_path / "letters.gz").write_bytes(b"right")
    (tmp_path / CHECKSUMS).write_text(f"{hashlib.sha256(b'right').hexdigest()}  letters.gz\n")
    assert file_faults(tmp_path, [ARCHIVE]) == []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (nothing, "letters.gz: expected the letters as published, found none"),
        (a_folder, "letters.gz: expected a file that can be read, found: Is a directory"),
        (other_bytes, f"letters.gz: expected the MD5 {MD5} (the letters as published), found "),
    ],
)
def test_a_file_with_a_checksum_is_named_with_what_is_there(tmp_path, make, words):
    make(tmp_path / "letters.gz")
    (fault,) = file_faults(tmp_path, [ARCHIVE])
    assert words in fault


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (nothing, f"letters.gz: expected the file that {CHECKSUMS} lists, found none"),
        (a_folder, "letters.gz: expected a file that can be read, found: Is a directory"),
        (other_bytes, f"letters.gz: expected the SHA-256 {'0' * 12}... ({CHECKSUMS}), found "),
    ],
)
def test_a_listed_file_is_named_with_what_is_there(tmp_path, make, words):
    make(tmp_path / "letters.gz")
    (tmp_path / CHECKSUMS).write_text(f"{'0' * 64}  letters.gz\n")
    (fault,) = file_faults(tmp_path, [])
    assert words in fault
