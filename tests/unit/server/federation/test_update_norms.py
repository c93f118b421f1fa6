"""Updates that are too large to be taken."""

import numpy as np
import pytest
import torch

from fedrecon_core.config import Updates
from server.federation.update_norms import judge, norm_of

pytestmark = pytest.mark.quick

START = {"w": torch.full((3, 2), 0.5), "b": torch.zeros(2)}
CURRENT = {"task.head": START, "generator.a.encoder": START}
BOUNDS = Updates(limit=10.0, least=4)


def moved(by: float) -> dict[str, torch.Tensor]:
    return {"w": START["w"] + by, "b": START["b"] - by}


def sent(group: str = "task.head", **sites: float) -> dict:
    return {site: {group: moved(by)} for site, by in sites.items()}


def test_the_norm_is_that_of_the_change_in_float64():
    new = {name: tensor + torch.randn(tensor.shape) * 1e18 for name, tensor in START.items()}
    expected = np.sqrt(sum(np.square(new[n].double().numpy() - START[n].double().numpy()).sum() for n in START))
    assert norm_of(new, CURRENT["task.head"]) == pytest.approx(expected, rel=1e-12)
    assert np.isfinite(norm_of({n: torch.full_like(t, 3e38) for n, t in START.items()}))


def test_a_tensor_of_a_single_number_counts_like_any_other():
    start, new = (
        {"scale": torch.tensor(1.0), "w": torch.zeros(2)},
        {"scale": torch.tensor(4.0), "w": torch.full((2,), 2.0)},
    )
    assert norm_of(new, start) == pytest.approx(17**0.5)


def test_an_update_far_above_the_median_is_named_and_the_others_are_fit():
    faults = judge(sent(a=0.1, b=0.2, c=0.1, d=1e30), CURRENT, {}, BOUNDS).faults
    assert list(faults) == ["d"]
    assert faults["d"].startswith(
        "task.head: an update of norm 2.83e+30, more than 10 times 0.283, the median of 4 sites"
    )


def test_one_that_is_large_and_not_absurd_is_taken():
    assert judge(sent(a=0.1, b=0.1, c=0.1, d=0.9), CURRENT, {}, BOUNDS).faults == {}


def test_where_few_sites_hold_a_group_the_first_update_is_compared_with_the_group_itself():
    faults = judge(sent(a=1.0, b=50.0), CURRENT, {}, BOUNDS).faults
    assert list(faults) == ["b"]
    assert "the norm of the group itself" in faults["b"]


def test_and_a_later_one_with_those_that_were_taken_before():
    history: dict = {}
    for by in (0.01, 0.02, 0.01):
        verdict = judge(sent(a=by), CURRENT, history, BOUNDS)
        assert verdict.faults == {}
        history = verdict.history
    verdict = judge(sent(a=0.5), CURRENT, history, BOUNDS)
    assert "the largest mean of a site before" in verdict.faults["a"]
    assert verdict.history == history  # what is refused is not remembered
    assert judge(sent(a=0.05), CURRENT, history, BOUNDS).faults == {}


def test_a_site_that_is_seldom_asked_is_compared_with_what_the_others_sent_meanwhile():
    history = judge(sent(a=0.001), CURRENT, {}, BOUNDS).history
    for by in (0.005, 0.02, 0.05):  # the model leaves a plateau while `a` is not asked
        history = judge(sent(b=by), CURRENT, history, BOUNDS).history
    assert judge(sent(a=0.05), CURRENT, history, BOUNDS).faults == {}
    assert set(judge(sent(a=0.5), CURRENT, history, BOUNDS).faults) == {"a"}


def test_history_is_kept_only_of_groups_that_few_sites_hold():
    many = sent(a=0.1, b=0.2, c=0.1, d=0.1)
    many["a"]["generator.a.encoder"] = moved(0.1)
    history = judge(many, CURRENT, {}, BOUNDS).history
    assert set(history) == {"generator.a.encoder"}
    assert set(history["generator.a.encoder"]) == {"a"}


def test_sites_that_send_no_change_make_nobody_absurd_and_open_no_door():
    assert judge(sent(a=0.0, b=0.0, c=0.0, d=0.1), CURRENT, {}, BOUNDS).faults == {}
    assert set(judge(sent(a=0.0, b=0.0, c=0.0, d=1e30), CURRENT, {}, BOUNDS).faults) == {"d"}
    history = judge(sent(a=0.0), CURRENT, {}, BOUNDS).history
    assert set(judge(sent(a=1e30), CURRENT, history, BOUNDS).faults) == {"a"}


def test_two_of_four_do_not_judge_themselves():
    assert set(judge(sent(a=0.1, b=0.1, c=1e30, d=1e30), CURRENT, {}, BOUNDS).faults) == {"c", "d"}


def test_sites_whose_group_saw_only_fills_make_nobody_absurd():
    filled = {site: {"task.head"} for site in "abcd"}
    idle = dict.fromkeys("abcd", 1e-6)
    assert judge(sent(**idle, e=0.1, f=0.2, g=0.1), CURRENT, {}, BOUNDS, filled).faults == {}
    assert judge(sent(**idle, e=0.1, f=0.2, g=0.1, h=0.1), CURRENT, {}, BOUNDS, filled).faults == {}
    # without word of the fills the four with next to nothing are the median
    assert set(judge(sent(**idle, e=0.1, f=0.2, g=0.1), CURRENT, {}, BOUNDS).faults) == {"e", "f", "g"}


def test_and_are_judged_by_those_that_saw_real_samples():
    filled = {"e": {"task.head"}}
    faults = judge(sent(a=0.1, b=0.2, c=0.1, d=0.1, e=2.0), CURRENT, {}, BOUNDS, filled).faults
    assert list(faults) == ["e"]
    assert "the median of 4 sites" in faults["e"]
    assert list(judge(sent(e=50.0), CURRENT, {}, BOUNDS, filled).faults) == ["e"]
    assert judge(sent(e=1e-6), CURRENT, {}, BOUNDS, filled).history == {}  # no measure for the day when it has some


def test_an_attempt_that_is_not_taken_leaves_the_history_as_it_was():
    history = judge(sent(a=0.1), CURRENT, {}, BOUNDS).history
    before = {group: dict(sites) for group, sites in history.items()}
    judge(sent(a=0.3), CURRENT, history, BOUNDS)
    assert history == before


def test_without_a_limit_everything_is_taken():
    assert judge(sent(a=0.1, b=0.1, c=0.1, d=1e30), CURRENT, {}, Updates(limit=None)).faults == {}


# --- groups of a strategy's own ---------------------------------------------------------------------------------------

VARIATE = "strategy.scaffold.task.head"
ZERO = {VARIATE: {name: torch.zeros_like(tensor) for name, tensor in START.items()}}


def variates(**norms: float) -> dict:
    """Sites that send a variate of that norm, where c is zero."""
    return {
        site: {VARIATE: {"w": torch.full((3, 2), norm / 6**0.5), "b": torch.zeros(2)}} for site, norm in norms.items()
    }


def test_first_variates_are_compared_with_each_other_however_few_and_large():
    assert judge(variates(a=900.0, b=1500.0, c=400.0), ZERO, {}, BOUNDS).faults == {}
    faults = judge(variates(a=900.0, b=1e30, c=400.0), ZERO, {}, BOUNDS).faults
    assert list(faults) == ["b"]
    assert faults["b"].startswith(f"{VARIATE}: an update of norm 1e+30, more than 10 times 900, the median of 3 sites")


def test_variates_of_sites_whose_group_saw_only_fills_are_no_measure():
    idle = dict.fromkeys("abcd", 1e-6)
    filled = {site: {"task.head", VARIATE} for site in idle}
    assert judge(variates(**idle, e=90.0, f=150.0, g=40.0), ZERO, {}, BOUNDS, filled).faults == {}
    assert list(judge(variates(**idle, e=90.0, f=1e30, g=40.0), ZERO, {}, BOUNDS, filled).faults) == ["f"]
    # without word of the fills the four with next to nothing are the median
    assert set(judge(variates(**idle, e=90.0, f=150.0, g=40.0), ZERO, {}, BOUNDS).faults) == {"e", "f", "g"}


def test_the_variate_of_a_site_that_joins_where_the_others_have_settled_is_no_fault():
    for settled in ({"a": 1e-3, "b": 1e-3, "c": 1e-3, "d": 1e-3}, {"a": 1e-3}):
        assert judge(variates(**settled, late=5.0), ZERO, {}, BOUNDS).faults == {}
        assert set(judge(variates(**settled, late=11.0), ZERO, {}, BOUNDS).faults) == {"late"}
    assert set(judge(sent(a=1e-3, b=1e-3, c=1e-3, d=5.0), CURRENT, {}, BOUNDS).faults) == {"d"}


def test_a_lone_variate_is_compared_with_those_before():
    history: dict = {}
    for _ in range(3):
        history = judge(variates(a=6.0), ZERO, history, BOUNDS).history
    assert judge(variates(a=50.0), ZERO, history, BOUNDS).faults == {}
    assert "the largest mean of a site before" in judge(variates(a=70.0), ZERO, history, BOUNDS).faults["a"]
    assert "10 times 1, " in judge(variates(a=1e30), ZERO, {}, BOUNDS).faults["a"]
