"""Settings of the process: random streams from one seed, device and memory."""

import platform
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fedrecon_core import runtime, seeding

KEYS = (7, "stage", 3, "site-0001", "task")


def draw_all() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))


def numpy_draws(*keys) -> list[float]:
    return seeding.numpy_stream(*keys).random(4).tolist()


def torch_draws(*keys) -> list[float]:
    return torch.rand(4, generator=seeding.torch_stream(*keys)).tolist()


@pytest.mark.quick
@pytest.mark.parametrize("draws", [numpy_draws, torch_draws])
def test_the_same_keys_give_the_same_stream(draws):
    assert draws(*KEYS) == draws(*KEYS)


@pytest.mark.quick
@pytest.mark.parametrize("draws", [numpy_draws, torch_draws])
@pytest.mark.parametrize("place", range(len(KEYS)))
def test_every_key_matters(draws, place):
    other = list(KEYS)
    other[place] = other[place] + (1 if isinstance(other[place], int) else "x")
    assert draws(*KEYS) != draws(*other)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("one", "two"),
    [
        ((1, 23), (12, 3)),
        ((0, "a", "b"), (0, "ab")),
        ((0, "1"), (0, 1)),
        ((0, "a", "b"), (0, "b", "a")),
        ((0,), (0, "")),
    ],
)
def test_keys_do_not_run_into_each_other(one, two):
    assert seeding.derive(*one) != seeding.derive(*two)


@pytest.mark.quick
def test_derived_seeds_fit_a_signed_64_bit_integer_and_do_not_collide():
    seeds = {seeding.derive(seed, "round", number) for seed in range(50) for number in range(100)}
    assert len(seeds) == 5000
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.quick
def test_streams_are_stable_across_versions():
    """Golden: a change of the derivation would silently change the partition and the masks of every published run."""
    assert seeding.derive(0, "partition", "") == 6232112930176149903
    assert seeding.derive(7, "stage", 3, "site-0001") == 3757298514715482015


@pytest.mark.quick
def test_a_stream_does_not_depend_on_what_was_drawn_before_and_leaves_global_state_alone():
    expected = numpy_draws(*KEYS), torch_draws(*KEYS)
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    seeding.numpy_stream(1, "other").random(100)
    assert (numpy_draws(*KEYS), torch_draws(*KEYS)) == expected
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


@pytest.mark.quick
def test_scope_draws_depend_on_the_keys_alone():
    torch.manual_seed(1)
    with seeding.scope(*KEYS):
        first = draw_all()
    torch.manual_seed(2)
    draw_all()
    with seeding.scope(*KEYS):
        second = draw_all()
    with seeding.scope(8, *KEYS[1:]):
        other = draw_all()
    assert first == second
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.quick
@pytest.mark.parametrize("fails", [False, True])
def test_scope_restores_all_three_generators_even_after_an_error(fails):
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(11)
    expected = draw_all()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(11)
    try:
        with seeding.scope(*KEYS):
            draw_all()
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert draw_all() == expected


@pytest.mark.quick
def test_scopes_nest():
    with seeding.scope(1, "outer"):
        expected = [torch.rand(()).item() for _ in range(2)]
    with seeding.scope(1, "outer"):
        found = [torch.rand(()).item()]
        with seeding.scope(1, "inner"):
            torch.rand(10)
        found.append(torch.rand(()).item())
    assert found == expected


# --- freed memory stays with the process -----------------------------------------------------------------------------


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
