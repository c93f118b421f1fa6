"""Freed memory stays with the process: after one step, the kernel is asked for few new pages."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from fedrecon_core import runtime

PROJECT = Path(__file__).resolve().parents[3]
STEPS = """
import resource, sys
import torch
from fedrecon_core.runtime import keep_freed_memory

def step():
    return len([torch.ones(1 << 20) for _ in range(8)])

def faults():
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10

print(faults(), keep_freed_memory(), faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not the GNU C library")
def test_a_step_reuses_the_memory_freed_by_the_step_before():
    ran = subprocess.run([sys.executable, "-c", STEPS], cwd=PROJECT, capture_output=True, text=True, check=True)
    before, asked, after = ran.stdout.split()
    assert asked == "True" and int(after) < 100 < int(before)


def test_nothing_changes_on_other_platforms(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert runtime.keep_freed_memory() is False
