"""Freed memory stays with the process: the kernel is asked for few new pages once a step has run."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from fedrecon_core import memory

PROJECT = Path(__file__).resolve().parents[3]
STEPS = """
import resource, sys
import torch
from fedrecon_core.memory import keep_freed_memory

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than the GNU one")
def test_a_step_takes_the_memory_that_the_one_before_has_freed():
    ran = subprocess.run([sys.executable, "-c", STEPS], cwd=PROJECT, capture_output=True, text=True, check=True)
    before, asked, after = ran.stdout.split()
    assert asked == "True" and int(after) < 100 < int(before)


def test_elsewhere_nothing_changes(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False
