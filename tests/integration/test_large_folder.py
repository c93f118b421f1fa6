"""A site folder far larger than the memory: what a site's process needs for it, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.large_folder import SCAN, write_large_folder

GB, MB = 1 << 30, 1 << 20
BATCH = 16
PROBE = """
import json, sys, threading, time
import torch
from pathlib import Path
from fedrecon_core.data.site_folder.opening import open_folder
from fedrecon_core.data.site_data import open_split
from fedrecon_core.data.statistics import Statistics, scaled, site_sums

torch.set_num_threads(1)
folder, batch, sums = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "sums"

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

class Peak(threading.Thread):
    daemon, highest, over = True, 0, False
    def run(self):
        while not self.over:
            self.highest = max(self.highest, anonymous())
            time.sleep(0.002)

before, peak = anonymous(), Peak()
peak.start()
began = time.perf_counter()
data = open_split(open_folder(folder), "train", device=torch.device("cpu"), keep_empty=False)
seconds = time.perf_counter() - began
opened = anonymous() - before
shape = data.spec["scan"].features
known = {"scan": Statistics(*(part.flatten().double() for part in (torch.zeros(shape), torch.ones(shape))))}
if sums:
    site_sums(data)
ready = scaled(data, known)
taken = ready.batch(torch.arange(batch) * 7)
time.sleep(0.01)
peak.over = True
peak.join()
rows = sum(r.values.nbytes for r in taken.inputs.values())
print(json.dumps({"seconds": seconds, "opened": opened, "peak": peak.highest - before, "batch": rows}))
"""


def probe(folder: Path, sums: str = "none") -> dict[str, float]:
    command = [sys.executable, "-c", PROBE, str(folder), str(BATCH), sums]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def ten_gigabytes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large") / "site"
    assert write_large_folder(folder, 10 * GB) > 17_000
    return folder


def test_ten_gigabytes_open_within_fifty_megabytes_and_a_batch(ten_gigabytes):
    found = probe(ten_gigabytes)
    print({key: round(value / MB, 1) if key != "seconds" else round(value, 4) for key, value in found.items()})
    assert found["batch"] > BATCH * SCAN
    assert found["opened"] < 50 * MB
    assert found["peak"] < 50 * MB + found["batch"]


def test_sums_over_a_large_modality_hold_a_block_at_a_time(tmp_path):
    write_large_folder(tmp_path / "site", GB // 2)
    found = probe(tmp_path / "site", "sums")
    print({key: round(value / MB, 1) if key != "seconds" else round(value, 4) for key, value in found.items()})
    assert found["peak"] < 100 * MB + 3 * found["batch"]
