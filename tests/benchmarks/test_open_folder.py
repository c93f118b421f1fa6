"""How long a site needs to open 10 GB of data: ``pytest -m benchmark -s tests/benchmarks/test_open_folder.py``."""

import statistics

import pytest

from tests.helpers.large_folder import write_large_folder
from tests.integration.test_site_folders import GB, probe

pytestmark = pytest.mark.benchmark


def test_ten_gigabytes_open_in_a_tenth_of_a_second(tmp_path):
    write_large_folder(tmp_path / "site", 10 * GB)
    seconds = [probe(tmp_path / "site")["seconds"] for _ in range(7)]
    print(f"median {statistics.median(seconds) * 1000:.0f} ms of {sorted(round(s * 1000) for s in seconds)}")
    assert statistics.median(seconds) < 0.1
