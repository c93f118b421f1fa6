"""Several labels per sample: loss, answers, histograms and metrics against references; who refuses such data."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from torch.nn import functional as F

from fedrecon_core.config import parse
from fedrecon_core.data.allocation import allocate
from fedrecon_core.data.site_data import open_split
from fedrecon_core.data.site_folder.check import check_folder
from fedrecon_core.data.site_folder.opening import open_folder
from fedrecon_core.data.site_folder.write import write_folder
from fedrecon_core.errors import ConfigError
from fedrecon_core.inference import load_model, save_model
from fedrecon_core.local.evaluate import Predictions
from fedrecon_core.metrics.base import Counts, all_metrics, applicable, check_select
from fedrecon_core.metrics.histograms import BINS, HALF, auroc, confusion_matrices, dense, histograms, sparse
from fedrecon_core.recovery.base import TaskObjective, recovery_for
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.state import read_group
from fedrecon_core.task.target import TARGETS, target_of
from server.runs.setup import check_run
from server.training.evaluation import write_predictions
from tests.helpers.contract_support import late_context
from tests.helpers.folders import content
from tests.helpers.multilabel import MULTILABEL_CLASSES, multilabel_settings, multilabel_spec, tiny_multilabel
from tests.helpers.toy import CPU, everything, toy_site, toy_spec

pytestmark = pytest.mark.quick

SEVERAL = TARGETS["multilabel"]


def drawn(seed: int, samples: int = 60, classes: int = 5, decimals: int | None = None):
    """Random logits float32 (rounded: with ties) and labels; the last class is rare."""
    draw = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(samples, classes, generator=draw)
    labels = (torch.rand(samples, classes, generator=draw) < torch.linspace(0.6, 0.05, classes)).long()
    labels[0], labels[1] = 1, 0
    return (logits if decimals is None else logits.round(decimals=decimals)), labels


# --- loss -------------------------------------------------------------------------------------------------------------


def test_loss_is_binary_cross_entropy_and_its_gradient_the_error_of_the_probability():
    logits, labels = drawn(0)
    logits = logits.double().requires_grad_()
    loss = SEVERAL.loss(logits, labels)
    p = torch.special.expit(logits.detach())
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.allclose(gradient, (p - labels) / labels.numel(), atol=1e-12)
    assert torch.autograd.gradcheck(lambda values: SEVERAL.loss(values, labels), logits.detach().requires_grad_())
    assert SEVERAL.losses(logits, labels).mean().item() == pytest.approx(loss.item(), rel=1e-12)


def test_loss_of_extreme_logits_is_finite():
    logits, labels = torch.tensor([[500.0, -500.0]]), torch.tensor([[0, 1]])
    assert SEVERAL.loss(logits, labels).item() == pytest.approx(500)


def test_multiclass_loss_is_cross_entropy():
    logits, labels = torch.randn(9, 4), torch.arange(9) % 4
    one = TARGETS["multiclass"]
    assert torch.equal(one.loss(logits, labels), F.cross_entropy(logits, labels))
    assert torch.equal(one.probabilities(logits), logits.softmax(dim=1))
    assert torch.equal(one.predictions(logits), logits.argmax(dim=1))


def test_the_task_objective_takes_the_targets_loss_of_hooked_logits():
    data = toy_site(tiny_multilabel())
    recovery = recovery_for(parse(multilabel_settings()), data.spec)
    context, seen = late_context(recovery, data), []

    def hook(logits, labels):
        seen.append(labels)
        return logits + 1

    context.logits_hook = hook
    objective, index = TaskObjective(recovery, context), torch.arange(6)
    logits = objective.model.logits(data.batch(index))
    assert objective.loss(index).item() == pytest.approx(SEVERAL.loss(logits + 1, data.labels[:6]).item(), rel=1e-6)
    assert torch.equal(seen[0], data.labels[:6])


# --- counts and metrics -----------------------------------------------------------------------------------------------


def reference(logits, labels) -> dict[str, float]:
    """scikit-learn on the scores themselves; AUROC over the classes that have both."""
    guesses, both = (logits > 0).long(), [k for k in range(labels.shape[1]) if 0 < labels[:, k].sum() < len(labels)]
    return {
        "accuracy": accuracy_score(labels.flatten(), guesses.flatten()),
        "macro_f1": f1_score(labels, guesses, average="macro", zero_division=0),
        "macro_auroc": roc_auc_score(labels[:, both], logits[:, both], average="macro") if both else 0.0,
    }


def exact(logits, labels) -> dict[str, float]:
    """The metrics where the scores themselves are at hand."""
    return all_metrics(SEVERAL.with_scores(SEVERAL.count(logits, labels), logits, labels))


def agree(logits, labels) -> dict[str, float]:
    found, expected = all_metrics(SEVERAL.count(logits, labels)), reference(logits, labels)
    assert set(found) == {"accuracy", "macro_f1", "macro_auroc", "macro_auroc_error", "macro_auroc_classes"}
    assert exact(logits, labels) == pytest.approx({**found, **expected, "macro_auroc_error": 0.0}, abs=1e-12)
    assert found["accuracy"] == pytest.approx(expected["accuracy"], abs=1e-12)
    assert found["macro_f1"] == pytest.approx(expected["macro_f1"], abs=1e-12)
    assert abs(found["macro_auroc"] - expected["macro_auroc"]) <= found["macro_auroc_error"] + 1e-12
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_metrics_agree_with_scikit_learn_within_the_bound(seed, decimals):
    found = agree(*drawn(seed, decimals=decimals))
    assert found["macro_auroc_error"] < (0.01 if decimals is None else 0.2)


@pytest.mark.parametrize("constant", [0, 1])
def test_a_class_without_positives_or_negatives_counts_in_f1_and_not_in_auroc(constant):
    logits, labels = drawn(1)
    labels[:, 2] = constant
    assert agree(logits, labels)["macro_auroc_classes"] == 4
    logits[:, 2] = -1.0
    agree(logits, labels)
    labels[:] = constant
    for found in (all_metrics(SEVERAL.count(logits, labels)), exact(logits, labels)):
        assert set(found) == {"accuracy", "macro_f1", "macro_auroc_classes"}
        assert found["macro_auroc_classes"] == 0


def test_one_rare_positive_among_many():
    logits, labels = drawn(3, samples=2000, classes=2)
    labels[:, 1] = 0
    labels[7, 1] = 1
    agree(logits, labels)


def test_scores_that_are_all_equal_have_an_area_of_a_half_and_say_how_little_that_means():
    _, labels = drawn(2)
    found = agree(torch.zeros_like(labels, dtype=torch.float32), labels)
    assert (found["macro_auroc"], found["macro_auroc_error"]) == (0.5, 0.5)


@pytest.mark.parametrize(("order", "area"), [(1, 1.0), (-1, 0.0)])
def test_the_bound_is_reached_where_all_of_a_bin_fall_the_same_way(order, area):
    logits = order * torch.tensor([[1.0], [1.001], [1.014], [1.015]])
    logits, labels = logits.repeat(1, 2), torch.tensor([[0, 0], [0, 0], [1, 1], [1, 1]])
    found = agree(logits, labels)
    assert roc_auc_score(labels, logits) == area
    assert abs(found["macro_auroc"] - area) == found["macro_auroc_error"] == 0.5


def test_scores_in_neighboring_bins_are_distinguished_exactly():
    octaves = 2.0 ** torch.arange(-14, 7)
    borders = (octaves[:, None] * (1 + torch.arange(64) / 64)).flatten()[: 20 * 64 + 1]
    logits = torch.cat([-borders, torch.zeros(1), borders])[:, None].repeat(1, 2)
    turn = torch.arange(len(logits))
    labels = torch.stack([turn % 3 == 0, turn % 5 > 1], dim=1).long()
    assert histograms(logits.numpy(), labels.numpy()).sum(axis=1).max() == 1
    found = agree(logits, labels)
    assert found["macro_auroc_error"] == 0
    assert found["macro_auroc"] == pytest.approx(roc_auc_score(labels, logits), abs=1e-15)


@pytest.mark.parametrize("size", [0.1, 0.01, 10.0])
def test_the_bound_is_small_whatever_the_size_of_the_logits(size):
    draw = torch.Generator().manual_seed(5)
    labels = (torch.rand(1000, 3, generator=draw) < 0.3).long()
    logits = size * (torch.randn(1000, 3, generator=draw) + labels) / 4 - 0.01 * size
    assert agree(logits, labels)["macro_auroc_error"] < 0.004


def test_no_bin_holds_a_higher_score_than_the_next_and_what_lies_in_one_differs_by_little():
    draw = torch.Generator().manual_seed(6)
    scores = torch.randn(20000, generator=draw) * 2.0 ** torch.randint(-20, 9, (20000,), generator=draw)
    scores = scores.sort().values
    absent = np.zeros((1, 1), dtype=np.int64)
    places = [int(histograms(score.reshape(1, 1).numpy(), absent)[0, 0].argmax()) for score in scores[::20]]
    assert places == sorted(places)
    for low, high, first, second in zip(scores[::20], scores[20::20], places, places[1:], strict=False):
        inside = first == second and min(abs(low), abs(high)) >= 2.0**-14 and max(abs(low), abs(high)) < 64
        assert not inside or abs(high - low) <= min(abs(low), abs(high)) / 64


def test_infinite_scores_and_none_are_ranked_as_in_the_histograms():
    logits = torch.tensor([[float("nan")], [-float("inf")], [0.0], [float("inf")], [float("inf")]])
    labels = torch.tensor([[1], [0], [0], [1], [0]])
    found = exact(logits, labels)
    assert found["macro_auroc"] == pytest.approx((0.5 + 2.5) / 6)
    assert found["macro_auroc"] == all_metrics(SEVERAL.count(logits, labels))["macro_auroc"]


def test_sparse_histograms_become_the_same_again_and_are_no_longer_than_the_answers():
    counted = histograms(*(tensor.numpy() for tensor in drawn(7)))
    places, counts = sparse(counted)
    assert len(places) == len(counts) <= 60 * 5 and places == sorted(places) and sum(counts) == 60 * 5
    assert np.array_equal(dense(places, counts, (5, 2, BINS)), counted)
    assert sparse(dense([], [], (5, 2, BINS))) == ([], [])


def test_scores_at_hand_add_up_and_counts_of_two_kinds_do_not():
    logits, labels = drawn(8)
    halves = [(logits[part], labels[part]) for part in (slice(0, 17), slice(17, 60))]
    first, second = (SEVERAL.with_scores(SEVERAL.count(*half), *half) for half in halves)
    assert all_metrics(first + second) == exact(logits, labels)
    counts = SEVERAL.count(*halves[1])
    with pytest.raises(ValueError, match="counts with logits and counts without"):
        first + counts
    for pair in ((counts, Counts(counts.confusion)), (Counts(counts.confusion), counts)):
        with pytest.raises(ValueError, match="counts with histograms and counts without"):
            pair[0] + pair[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_answers_and_borders_are_those_of_probability_one_half(dtype):
    logits = torch.tensor([[0.0, 1e-30, -1e-30, 1e9, -1e9, float("nan")]], dtype=dtype)
    counted = histograms(logits.numpy(), np.ones((1, 6), dtype=np.int64))
    assert counted.dtype == np.int64 and counted.shape == (6, 2, BINS)
    assert counted[:, 1].argmax(axis=1).tolist() == [HALF - 1, HALF, HALF - 1, BINS - 1, 0, 0]
    assert confusion_matrices(counted)[:, 1].tolist() == [[1, 0], [0, 1], [1, 0], [0, 1], [1, 0], [1, 0]]
    assert SEVERAL.predictions(logits).tolist() == [[0, 1, 0, 1, 0, 0]]
    assert SEVERAL.probabilities(torch.tensor([[0.0]])).item() == 0.5


def test_pooled_counts_are_those_of_all_samples_together():
    logits, labels = drawn(4)
    parts = [SEVERAL.count(logits[part], labels[part]) for part in (slice(0, 11), slice(11, 60))]
    together, whole = parts[0] + parts[1], SEVERAL.count(logits, labels)
    assert np.array_equal(together.confusion, whole.confusion) and np.array_equal(together.histograms, whole.histograms)
    assert together.samples == 60
    assert auroc(together.histograms)[0].tolist() == auroc(whole.histograms)[0].tolist()


def test_a_score_counts_samples_with_nothing_apart():
    present = everything(48)
    present[::4] = False
    data = toy_site(tiny_multilabel(), present)
    logits, some = torch.randn(48, 3, generator=torch.Generator().manual_seed(0)), torch.from_numpy(present.any(axis=1))
    score = Predictions(logits).score(data)
    assert (score.counts.samples, score.empty.samples) == (36, 12)
    assert np.array_equal(score.counts.confusion, SEVERAL.count(logits[some], data.labels[some]).confusion)
    assert score.loss_sum == pytest.approx(36 * SEVERAL.loss(logits[some], data.labels[some]).item(), rel=1e-5)
    assert (score + score).counts.samples == 72


# --- who takes such data ----------------------------------------------------------------------------------------------


def test_select_names_the_metrics_that_apply():
    assert applicable("multilabel") == ["accuracy", "macro_auroc", "macro_f1"]
    assert {"accuracy", "macro_f1", "uar"} <= set(applicable("multiclass"))
    check_select("uar", toy_spec())
    with pytest.raises(ConfigError) as caught:
        check_select("uar", multilabel_spec())
    expected = (
        "expected a metric of multilabel data such as toy_multilabel (accuracy, macro_auroc, macro_f1), found uar"
    )
    assert expected in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(
        ConfigError, match=r"multiclass data such as toy \(accuracy, macro_f1, uar\), found macro_auroc"
    ):
        check_select("macro_auroc", toy_spec())


@pytest.mark.parametrize("select", ["uar", "macro_auroc"])
def test_a_run_is_tried_out_with_its_metric(select):
    config = parse(multilabel_settings(evaluate={"select": select}))
    if select == "macro_auroc":
        check_run(config)
        return
    with pytest.raises(ConfigError, match=r"^evaluate\.select: "):
        check_run(config)


def test_coupled_needs_one_class_per_sample():
    missing = {"train": {"level": "coupled"}, "test": {"level": "sample", "rate": 0.5}}
    config = parse(multilabel_settings(missing=missing))
    with pytest.raises(ConfigError, match=r"missing\.train\.level: coupled .*one class per sample.*toy_multilabel"):
        allocate(tiny_multilabel(), config)


@pytest.mark.parametrize("alpha", [0.1, 100.0])
def test_a_dirichlet_partition_deals_by_the_rarest_label(alpha):
    partition = {"name": "dirichlet", "alpha": alpha}
    dataset = tiny_multilabel(400, 24)
    config = parse(multilabel_settings(data={"partition": partition, "train": 400}))
    shares = allocate(dataset, config).train
    held = np.concatenate([share.samples for share in shares.values()])
    assert sorted(held) == dataset.members(0).tolist()
    strata = dataset.strata()
    classes = len(MULTILABEL_CLASSES)
    counts = np.array([np.bincount(strata[share.samples], minlength=classes + 1) for share in shares.values()])
    skew = (counts / counts.sum(axis=0)).max(axis=0)
    assert (skew > 0.5).all() if alpha < 1 else (skew < 0.4).all()


def test_a_site_folder_keeps_several_labels(tmp_path):
    dataset = tiny_multilabel(24, 12)
    write_folder(tmp_path / "site", content(dataset))
    assert check_folder(tmp_path / "site") == []
    back = open_folder(tmp_path / "site")
    assert back.spec == dataset.spec
    assert back.labels.dtype == np.int64 and np.array_equal(back.labels, dataset.labels)
    data = open_split(back, "train", device=CPU, keep_empty=False)
    assert np.array_equal(data.labels.numpy(), dataset.labels[dataset.members(0)])
    assert data.batch(torch.arange(5)).labels.shape == (5, 3)


def test_predictions_name_lists_of_classes_and_a_probability_of_each(tmp_path):
    data = toy_site(tiny_multilabel())
    logits = torch.randn(48, 3, generator=torch.Generator().manual_seed(0))
    logits[0, 0] = 30.0
    logits[2] = -1.0
    write_predictions(tmp_path / "predictions.parquet", data, Predictions(logits))
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert (
        str(table.schema.field("label").type).startswith("list<")
        and table.schema.field("predicted").type.value_type == "int64"
    )
    assert table["label"].to_pylist() == [np.flatnonzero(row).tolist() for row in data.labels.numpy()]
    assert table["predicted"].to_pylist() == [np.flatnonzero(row > 0).tolist() for row in logits.numpy()]
    assert table["predicted"][2].as_py() == []
    for column, name in enumerate(MULTILABEL_CLASSES):
        found = torch.tensor(table[f"probability_{name}"].to_pylist(), dtype=torch.float64)
        assert torch.allclose(found, logits[:, column].double().sigmoid(), atol=1e-12)
    assert table["probability_bright"][0].as_py() < 1, "float64 keeps far scores apart"


def test_no_samples_still_make_a_table_of_lists(tmp_path):
    data = toy_site(tiny_multilabel())
    empty = replace(
        data, labels=data.labels[:0], ids=data.ids[:0], cluster_ids=data.cluster_ids[:0], present=data.present[:0]
    )
    write_predictions(tmp_path / "predictions.parquet", empty, Predictions(torch.zeros(0, 3)))
    assert str(pq.read_table(tmp_path / "predictions.parquet").schema.field("label").type).startswith("list<")


def test_a_trained_model_gives_a_probability_of_each_class(tmp_path):
    recovery = recovery_for(parse(multilabel_settings()), multilabel_spec())
    groups = recovery.build()
    states = {name: read_group(module) for name, module in groups.items()}
    save_model(tmp_path / "model", states, recovery, GlobalInfo(3, dict.fromkeys(groups, 5)))
    model = load_model(tmp_path / "model")
    values = tiny_multilabel().arrays["features"][:7]
    found = model.predict({"features": values})
    dataset = tiny_multilabel()
    site = toy_site(dataset, np.tile([False, True, False], (48, 1)))
    assert found.shape == (7, 3) and ((found > 0) & (found < 1)).all()
    assert not torch.allclose(found.sum(dim=1), torch.ones(7))
    assert torch.allclose(found, model.logits(site).sigmoid()[:7], atol=1e-6)
    assert target_of(model.recovery.spec) is SEVERAL
