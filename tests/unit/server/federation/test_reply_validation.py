"""Validation of replies and of the size of updates: a bad reply never reaches an average."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, MetricRecord

from fedrecon_core.config import Updates
from fedrecon_core.local.evaluate import Score
from fedrecon_core.local.local_round import TrainResult
from fedrecon_core.metrics.base import Counts
from fedrecon_core.metrics.histograms import sparse
from fedrecon_core.state import TransferPlan
from fedrecon_core.task.target import target_of
from fedrecon_core.types import DatasetSpec
from server.federation.messaging import ReplyError
from server.federation.reply_validation import read_description, read_score
from server.federation.update_norms import judge, norm_of
from strategies import messages
from strategies.messages import Holding, Identity, OwnData, SiteInfo, TrainReply
from tests.helpers.contract_support import fault_of
from tests.helpers.toy import toy_spec

pytestmark = pytest.mark.quick

STATE = {"w": torch.ones(2, 3), "b": torch.zeros(3)}
CURRENT = {"task.head": STATE, "task.extractor.a": STATE}
SITE = SiteInfo("site-0000", "code", "spec", ("a",), 5, {})
PLAN = TransferPlan(("task.extractor.a", "task.head"), ("task.head",))


def reply(
    groups: dict[str, Any],
    counts: dict[str, int] | None = None,
    real: dict[str, int] | None = None,
    quality: dict[str, float] | None = None,
    identity: Identity = SITE.identity,
) -> Any:
    counts = dict.fromkeys(groups, 5) if counts is None else counts
    result = TrainResult(groups, counts, real or {}, quality or {}, [])
    return SimpleNamespace(content=messages.write_train_reply(TrainReply.of(result, 5, 0.1, 0.1, identity)))


def test_a_good_reply_has_no_fault() -> None:
    good = reply({"task.head": STATE}, real={"task.head": 3}, quality={"task.head": 0.5})
    assert fault_of(good, PLAN, CURRENT, SITE) is None
    assert fault_of(reply({}), PLAN, CURRENT, SITE) is None  # nothing passed through any group


@pytest.mark.parametrize(
    ("groups", "counts", "words"),
    [
        ({"task.extractor.a": STATE}, None, "uploaded task.extractor.a, which its transfer plan does not contain"),
        ({"task.unheard": STATE}, None, "uploaded task.unheard"),
        ({"task.head": {"w": STATE["w"]}}, None, "expected the tensors"),
        ({"task.head": {**STATE, "b": torch.zeros(4)}}, None, "b: expected float32 (3,), found float32 (4,)"),
        ({"task.head": {**STATE, "b": torch.zeros(3).double()}}, None, "found float64"),
        ({"task.head": {**STATE, "b": torch.tensor([0.0, float("nan"), 1.0])}}, None, "b contains NaN or infinity"),
        ({"task.head": {**STATE, "w": torch.full((2, 3), float("inf"))}}, None, "w contains NaN or infinity"),
        ({"task.head": STATE}, {"task.head": 0}, "expected a count above 0"),
        ({"task.head": STATE}, {"task.head": -3}, "found -3"),
        ({"task.head": STATE}, {"task.head": 6}, "at most the site's 5 training samples, found 6"),
        ({"task.head": STATE}, {}, "found None"),
        ({}, {"task.head": 3}, "expected task.head, for which it sent a count, found none"),
    ],
)
def test_a_bad_reply_is_named(groups: dict[str, Any], counts: dict[str, int] | None, words: str) -> None:
    assert words in str(fault_of(reply(groups, counts), PLAN, CURRENT, SITE))


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("name", ["total", "processor", "task"])
def test_a_time_that_would_spoil_a_sum_is_named(name: str, seconds: float) -> None:
    answer = reply({"task.head": STATE})
    answer.content["seconds"][name] = seconds
    assert f"expected a time {name} of at least 0 seconds, found {seconds}" in str(
        fault_of(answer, PLAN, CURRENT, SITE)
    )


def test_a_reply_without_its_processor_time_is_named() -> None:
    answer = reply({"task.head": STATE})
    del answer.content["seconds"]["processor"]
    assert "a time processor of at least 0 seconds, found None" in str(fault_of(answer, PLAN, CURRENT, SITE))


def test_a_reply_without_its_records_is_named() -> None:
    answer = reply({"task.head": STATE})
    del answer.content["quality"]
    assert "its reply lacks 'quality'" in str(fault_of(answer, PLAN, CURRENT, SITE))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (reply({"task.head": STATE}, real={"task.head": 6}), "expected between 0 and 5 real rows"),
        (reply({"task.head": STATE}, real={"task.head": -1}), "found -1"),
        (
            reply({"task.head": STATE}, quality={"mapping.a->b": 0.5}),
            "a quality only for uploaded groups, found one for mapping.a->b",
        ),
        (reply({"task.head": STATE}, quality={"task.head": float("nan")}), "expected a finite quality of task.head"),
        (
            reply({"task.head": STATE}, identity=Identity("new", "spec")),
            "code changed during the run: expected hash",
        ),
        (reply({"task.head": STATE}, identity=Identity("code", "new")), "data specification changed during the run"),
    ],
)
def test_impossible_numbers_and_changed_sites_are_named(answer: Any, words: str) -> None:
    assert words in str(fault_of(answer, PLAN, CURRENT, SITE))


def damaged(data: bytes) -> Any:
    """A reply whose one array holds ``data`` in place of NumPy's format."""
    answer = reply({"task.head": STATE})
    record = answer.content["task.head"]
    [name] = list(record)
    array = record[name]
    record[name] = Array(dtype=array.dtype, shape=array.shape, stype=array.stype, data=data)
    return answer


def with_metrics(**metrics: float) -> Any:
    answer = reply({"task.head": STATE})
    answer.content["metrics"] = MetricRecord({name.replace("_", "."): value for name, value in metrics.items()})
    return answer


HUGE = (
    b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000,), }".ljust(127) + b"\n"
)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (damaged(b""), "cannot be read"),
        (damaged(b"PK\x03\x04 no archive"), "cannot be read"),
        (damaged(HUGE), "cannot be read"),
        (damaged(b"\x93NUMPY"), "cannot be read"),
        (reply({"task.head": STATE}, counts={"task.head": float("inf")}), "cannot be read"),
        (
            reply({}, counts={"mapping.a->b": 0}, quality={"mapping.a->b": 0.5}),
            "a quality only for uploaded groups, found one for mapping.a->b",
        ),
        (with_metrics(task_loss=1.0), "expected a positive number of items for task.loss, found 0"),
        (with_metrics(task_loss=1.0, task_items=0.0), "found 0.0"),
        (with_metrics(task_loss=1.0, task_items=float("nan")), "found nan"),
    ],
)
def test_what_cannot_be_read_or_averaged_is_a_fault_and_no_exception(answer: Any, words: str) -> None:
    assert words in str(fault_of(answer, PLAN, CURRENT, SITE))


def test_data_that_have_grown_are_no_fault() -> None:
    grown = reply({"task.head": STATE}, identity=Identity("code", "spec", "new"))
    assert fault_of(grown, PLAN, CURRENT, SITE) is None


# --- descriptions ----------------------------------------------------------------------------------------------------

SPEC = toy_spec()
HELD = {split: Holding(3, {"features": 2}) for split in ("train", "validation", "test")}


def described(**changes: Any) -> Any:
    own = OwnData(SPEC.model_dump_json(), "data", HELD)
    info = SiteInfo("north", "code", SPEC.digest(), ("features",), 3, {}, own)
    return SimpleNamespace(content=messages.write_site_info(replace(info, **changes)))


def test_a_good_description_is_read() -> None:
    found = read_description(described().content)
    assert isinstance(found, SiteInfo)
    assert found.own is not None and found.own.holdings == HELD


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "../north"}, "found '../north'"),
        ({"name": "n" * 101}, "at most 100"),
        ({"spec_hash": "0"}, "the hash of its data specification, found 0"),
        ({"modalities": ("smell",)}, "expected modalities of its data specification, found smell as well"),
        ({"own": OwnData("{", "data", HELD)}, "its description cannot be read"),
        ({"samples": 4}, "expected 3 training samples as in its splits, found 4"),
        ({"sums": {"features": (3.0, [1.0] * 4, [1.0] * 5)}}, "expected 5 features, found 4 sums and 5 squares"),
        ({"sums": {"features": (0.0, [1.0] * 5, [1.0] * 5)}}, "expected a count above 0, found 0"),
        ({"sums": {"features": (3.0, [float("nan")] * 5, [1.0] * 5)}}, "expected finite sums"),
        ({"sums": {"features": (3.0, [1.0] * 5, [-1.0] * 5)}}, "squares of at least 0"),
        ({"sums": {"smell": (3.0, [1.0], [1.0])}}, "its description "),
        ({"own": OwnData(SPEC.model_dump_json(), "data", {})}, "its description lacks 'train'"),
        (
            {"own": OwnData(SPEC.model_dump_json(), "data", {**HELD, "test": Holding(3, {"features": 4})})},
            "test samples with each modality",
        ),
    ],
)
def test_a_bad_description_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ReplyError) as fault:
        read_description(described(**changes).content)
    assert words in str(fault.value)


# --- scores ----------------------------------------------------------------------------------------------------------


TWO = DatasetSpec(name="two", modalities=(), classes=("a", "b"))
SEVERAL = TWO.model_copy(update={"target": "multilabel"})


def answer_of(counts: Counts, split: str = "test") -> Any:
    score = Score(counts, Counts(np.zeros_like(counts.confusion)), 1.5)
    return SimpleNamespace(content=messages.write_scores({split: score}))


def scores(confusion: list[list[int]], split: str = "test") -> Any:
    return answer_of(Counts(np.array(confusion)), split)


def with_field(name: str, value: Any) -> Any:
    answer = scores([[2, 0], [1, 2]])
    answer.content["metrics"] = MetricRecord({**answer.content["metrics"], name: value})
    return answer


def score_fault(answer: Any, *arguments: Any) -> str | None:
    """What is wrong with a site's scores, or None."""
    try:
        read_score(answer.content, *arguments)
    except ReplyError as error:
        return str(error)
    return None


def test_good_scores_have_no_fault() -> None:
    assert score_fault(scores([[2, 0], [1, 2]]), "test", TWO, 5) is None
    assert score_fault(with_field("test.loss_sum", float("nan")), "test", TWO, 5) is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (scores([[2, 0], [1, 3]]), "expected scores of at most its 5 samples of test, found 6"),
        (scores([[2, -1], [1, 2]]), "found -1"),
        (scores([[2**62, 2**62], [2**62, 2**62]]), "found 18446744073709551616"),
        (scores([[1]]), "cannot be read"),
        (scores([[2, 0], [1, 2]], split="validation"), "lacks 'test'"),
        (with_field("test.more", [1, 2]), "found others in test.more"),
        (with_field("test.histograms", [1, 2]), "found others in test.histograms"),
        (with_field("test.confusion", [0.5, 0.5, 1.0, 2.0]), "found others in test.confusion"),
    ],
)
def test_bad_scores_are_named(answer: Any, words: str) -> None:
    assert words in str(score_fault(answer, "test", TWO, 5))


LOGITS, LABELS = torch.tensor([[1.0, -1.0], [2.0, 3.0], [-2.0, 0.0]]), torch.tensor([[1, 0], [0, 1], [0, 0]])
GOOD = target_of(SEVERAL).count(LOGITS, LABELS)


def spoilt(table: str, change: Callable[[np.ndarray], object]) -> Any:
    """The good multilabel scores with one table changed in place."""
    tables = {"confusion": GOOD.confusion.copy(), "histograms": GOOD.histograms.copy()}  # type: ignore[union-attr]
    change(tables[table])
    return answer_of(Counts(**tables))


BINS_SENT, IN_BINS_SENT = sparse(GOOD.histograms)  # type: ignore[arg-type]


def retold(**fields: list[Any]) -> Any:
    """The good multilabel scores with lists of them exchanged."""
    answer = answer_of(GOOD)
    record = dict(answer.content["metrics"]) | {f"test.{name}": values for name, values in fields.items()}
    return SimpleNamespace(content=SimpleNamespace(metric_records={"metrics": record}))


def moved(table: np.ndarray) -> None:
    table[0, 1], table[0, 0] = table[0, 0].copy(), table[0, 1].copy()


def test_good_scores_of_several_labels_have_no_fault() -> None:
    assert score_fault(answer_of(GOOD), "test", SEVERAL, 3) is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (answer_of(Counts(GOOD.confusion)), "its score lacks 'test.bins'"),
        (
            spoilt("confusion", lambda table: np.multiply(table[0], 2, out=table[0])),
            "equally many samples for each class, found 3 for one and 6",
        ),
        (spoilt("confusion", lambda table: np.multiply(table, 2, out=table)), "at most its 3 samples of test, found 6"),
        (spoilt("confusion", lambda table: np.subtract(table, 1, out=table)), "found -1"),
        (spoilt("confusion", moved), "are of different samples"),
        (spoilt("histograms", moved), "are of different samples"),
        (
            spoilt("histograms", lambda table: table.__setitem__((1, 0, 7), table[1, 0, 7] - 1)),
            "at least 1 in the bins of the histograms, found -1",
        ),
        (retold(bins=[-1, *BINS_SENT[1:]]), "expected ascending bins of the histograms from 0 to"),
        (retold(bins=[*BINS_SENT[:-1], 2**40]), "expected ascending bins of the histograms from 0 to"),
        (retold(bins=BINS_SENT[::-1]), "expected ascending bins of the histograms from 0 to"),
        (retold(bins=[BINS_SENT[0], *BINS_SENT[:-1]]), "expected ascending bins of the histograms from 0 to"),
        (retold(bins=BINS_SENT[1:]), "expected a count for each of 5 bins of the histograms, found 6"),
        (retold(in_bins=[0, *IN_BINS_SENT[1:]]), "at least 1 in the bins of the histograms, found 0"),
        (retold(in_bins=[2**70, *IN_BINS_SENT[1:]]), "cannot be read"),
        (retold(in_bins=[1.5, *IN_BINS_SENT[1:]]), "found others in test.in_bins"),
        (retold(in_bins=IN_BINS_SENT[1:], bins=BINS_SENT[1:]), "are of different samples"),
        (
            spoilt("histograms", lambda table: table.__setitem__((1, 0, 7), table[1, 0, 7] + 2**62)),
            "found 4611686018427387904",
        ),
        (scores([[2, 0], [1, 0]]), "cannot be read"),
    ],
)
def test_bad_scores_of_several_labels_are_named(answer: Any, words: str) -> None:
    assert words in str(score_fault(answer, "test", SEVERAL, 3))


# --- size of updates --------------------------------------------------------------------------------------------------


START = {"w": torch.full((3, 2), 0.5), "b": torch.zeros(2)}
MODEL = {"task.head": START, "generator.a.encoder": START}
BOUNDS = Updates(limit=10.0, least=4)


def shifted(by: float) -> dict[str, torch.Tensor]:
    return {"w": START["w"] + by, "b": START["b"] - by}


def sent(group: str = "task.head", **sites: float) -> dict:
    return {site: {group: shifted(by)} for site, by in sites.items()}


def test_the_norm_is_that_of_the_change_in_float64():
    new = {name: tensor + torch.randn(tensor.shape) * 1e18 for name, tensor in START.items()}
    expected = np.sqrt(sum(np.square(new[n].double().numpy() - START[n].double().numpy()).sum() for n in START))
    assert norm_of(new, MODEL["task.head"]) == pytest.approx(expected, rel=1e-12)
    assert np.isfinite(norm_of({n: torch.full_like(t, 3e38) for n, t in START.items()}))


def test_a_tensor_of_a_single_number_counts_like_any_other():
    start, new = (
        {"scale": torch.tensor(1.0), "w": torch.zeros(2)},
        {"scale": torch.tensor(4.0), "w": torch.full((2,), 2.0)},
    )
    assert norm_of(new, start) == pytest.approx(17**0.5)


def test_an_update_far_above_the_median_is_named_and_the_others_are_fit():
    faults = judge(sent(a=0.1, b=0.2, c=0.1, d=1e30), MODEL, {}, BOUNDS).faults
    assert list(faults) == ["d"]
    assert faults["d"].startswith(
        "task.head: an update of norm 2.83e+30, more than 10 times 0.283, the median of 4 sites"
    )


def test_one_that_is_large_and_not_absurd_is_taken():
    assert judge(sent(a=0.1, b=0.1, c=0.1, d=0.9), MODEL, {}, BOUNDS).faults == {}


def test_where_few_sites_hold_a_group_the_first_update_is_compared_with_the_group_itself():
    faults = judge(sent(a=1.0, b=50.0), MODEL, {}, BOUNDS).faults
    assert list(faults) == ["b"]
    assert "the norm of the group itself" in faults["b"]


def test_and_a_later_one_with_those_that_were_taken_before():
    history: dict = {}
    for by in (0.01, 0.02, 0.01):
        verdict = judge(sent(a=by), MODEL, history, BOUNDS)
        assert verdict.faults == {}
        history = verdict.history
    verdict = judge(sent(a=0.5), MODEL, history, BOUNDS)
    assert "the largest running mean of a site" in verdict.faults["a"]
    assert verdict.history == history  # what is refused is not remembered
    assert judge(sent(a=0.05), MODEL, history, BOUNDS).faults == {}


def test_a_site_that_is_seldom_asked_is_compared_with_what_the_others_sent_meanwhile():
    history = judge(sent(a=0.001), MODEL, {}, BOUNDS).history
    for by in (0.005, 0.02, 0.05):  # the model leaves a plateau while `a` is not asked
        history = judge(sent(b=by), MODEL, history, BOUNDS).history
    assert judge(sent(a=0.05), MODEL, history, BOUNDS).faults == {}
    assert set(judge(sent(a=0.5), MODEL, history, BOUNDS).faults) == {"a"}


def test_history_is_kept_only_of_groups_that_few_sites_hold():
    many = sent(a=0.1, b=0.2, c=0.1, d=0.1)
    many["a"]["generator.a.encoder"] = shifted(0.1)
    history = judge(many, MODEL, {}, BOUNDS).history
    assert set(history) == {"generator.a.encoder"}
    assert set(history["generator.a.encoder"]) == {"a"}


def test_sites_that_send_no_change_make_nobody_absurd_and_open_no_door():
    assert judge(sent(a=0.0, b=0.0, c=0.0, d=0.1), MODEL, {}, BOUNDS).faults == {}
    assert set(judge(sent(a=0.0, b=0.0, c=0.0, d=1e30), MODEL, {}, BOUNDS).faults) == {"d"}
    history = judge(sent(a=0.0), MODEL, {}, BOUNDS).history
    assert set(judge(sent(a=1e30), MODEL, history, BOUNDS).faults) == {"a"}


def test_two_of_four_do_not_judge_themselves():
    assert set(judge(sent(a=0.1, b=0.1, c=1e30, d=1e30), MODEL, {}, BOUNDS).faults) == {"c", "d"}


def test_sites_whose_group_saw_only_fills_make_nobody_absurd():
    filled = {site: {"task.head"} for site in "abcd"}
    idle = dict.fromkeys("abcd", 1e-6)
    assert judge(sent(**idle, e=0.1, f=0.2, g=0.1), MODEL, {}, BOUNDS, filled).faults == {}
    assert judge(sent(**idle, e=0.1, f=0.2, g=0.1, h=0.1), MODEL, {}, BOUNDS, filled).faults == {}
    # without word of the fills the four with next to nothing are the median
    assert set(judge(sent(**idle, e=0.1, f=0.2, g=0.1), MODEL, {}, BOUNDS).faults) == {"e", "f", "g"}


def test_and_are_judged_by_those_that_saw_real_samples():
    filled = {"e": {"task.head"}}
    faults = judge(sent(a=0.1, b=0.2, c=0.1, d=0.1, e=2.0), MODEL, {}, BOUNDS, filled).faults
    assert list(faults) == ["e"]
    assert "the median of 4 sites" in faults["e"]
    assert list(judge(sent(e=50.0), MODEL, {}, BOUNDS, filled).faults) == ["e"]
    assert judge(sent(e=1e-6), MODEL, {}, BOUNDS, filled).history == {}  # no measure for the day when it has some


def test_an_attempt_that_is_not_taken_leaves_the_history_as_it_was():
    history = judge(sent(a=0.1), MODEL, {}, BOUNDS).history
    before = {group: dict(sites) for group, sites in history.items()}
    judge(sent(a=0.3), MODEL, history, BOUNDS)
    assert history == before


def test_without_a_limit_everything_is_taken():
    assert judge(sent(a=0.1, b=0.1, c=0.1, d=1e30), MODEL, {}, Updates(limit=None)).faults == {}


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
    assert set(judge(sent(a=1e-3, b=1e-3, c=1e-3, d=5.0), MODEL, {}, BOUNDS).faults) == {"d"}


def test_a_lone_variate_is_compared_with_those_before():
    history: dict = {}
    for _ in range(3):
        history = judge(variates(a=6.0), ZERO, history, BOUNDS).history
    assert judge(variates(a=50.0), ZERO, history, BOUNDS).faults == {}
    assert "the largest running mean of a site" in judge(variates(a=70.0), ZERO, history, BOUNDS).faults["a"]
    assert "10 times 1, " in judge(variates(a=1e30), ZERO, {}, BOUNDS).faults["a"]
