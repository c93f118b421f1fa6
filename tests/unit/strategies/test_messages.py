"""Messages: everything that is written is read back; bytes are those of the tensors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict

from fedrecon_core.data.allocation import Share
from fedrecon_core.data.statistics import Statistics
from fedrecon_core.local.evaluate import Score
from fedrecon_core.local.local_round import TrainResult
from fedrecon_core.local.stage_runner import StageReport
from fedrecon_core.metrics.base import Counts
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.state import group_bytes
from fedrecon_core.task.target import target_of
from fedrecon_core.types import DatasetSpec
from strategies import messages
from strategies.messages import Accepted, SiteInfo, TrainInstruction

pytestmark = pytest.mark.quick

STATE = {
    "w": torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),
    "half": torch.ones(5, dtype=torch.float16),
    "steps": torch.tensor(7),
    "empty": torch.zeros(0, 3),
}
SPEC = DatasetSpec(name="two", modalities=(), classes=("a", "b"))
GROUPS = {"task.head": STATE, "mapping.a->b": {"body.0.weight": torch.zeros(2, 2)}}


def travelled(content: RecordDict) -> RecordDict:
    """Through Flower's own serialisation, as between processes."""
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

    objects = {key: item.deflate() for key, item in get_all_nested_objects(content).items()}
    back = inflate_object_from_contents(content.object_id, objects)
    assert isinstance(back, RecordDict)
    return back


def same(one: dict, two: dict) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert tensor.dtype == two[name].dtype
        assert tensor.shape == two[name].shape
        assert torch.equal(tensor, two[name])


@pytest.mark.parametrize(
    "share",
    [
        None,
        Share(np.array([5, 2, 2], dtype=np.int64), np.array([[1, 0], [0, 1], [1, 1]], dtype=bool)),
        Share(np.zeros(0, dtype=np.int64), np.zeros((0, 2), dtype=bool)),
    ],
    ids=["own data", "share", "nothing"],
)
def test_orders(share):
    for shares in ((share, None), (share, share), (None, share)):
        back = messages.read_instruction(
            travelled(messages.write_instruction(TrainInstruction("site-0001", '{"seed": 1}', 3, "/runs/ä b", *shares)))
        )
        assert (back.config, back.round, back.run) == ('{"seed": 1}', 3, "/runs/ä b")
        for found, expected in zip((back.share, back.training), shares, strict=True):
            assert (found is None) == (expected is None)
            if expected is not None:
                assert np.array_equal(found.samples, expected.samples)
                assert np.array_equal(found.present, expected.present)
                assert found.samples.dtype == np.int64
                assert found.present.dtype == bool


@pytest.mark.parametrize(
    ("accepted", "needed"),
    [
        (Accepted(), set()),
        (Accepted(7), {7}),
        (Accepted(7, {"task.head": 0, "mapping.a->b": 5}), {5, 7}),
    ],
)
def test_an_order_says_with_which_version_of_its_state_a_site_goes_on(accepted, needed):
    back = messages.read_instruction(
        travelled(messages.write_instruction(TrainInstruction("site-0001", "{}", 8, "run", accepted=accepted)))
    )
    assert back.accepted == accepted
    assert back.accepted.rounds == needed


def test_knowledge_holds_the_groups_and_statistics_that_were_asked_for():
    statistics = {m: Statistics(torch.tensor([0.1, 0.2]).double(), torch.tensor([1.0, 3.0]).double()) for m in "ab"}
    global_info = GlobalInfo(
        4, {"task.head": 10, "task.extractor.a": 3}, {"mapping.a->b": 0.25, "mapping.b->a": 0.5}, statistics
    )
    content = messages.write_instruction(TrainInstruction("site-0001", "{}", 4, "run"))
    messages.write_knowledge(
        content, global_info, ["task.head", "mapping.a->b", "generator.a.encoder"], ["a", "unknown"]
    )
    back = messages.read_knowledge(travelled(content))
    assert back.round == 4
    assert back.trained == {"task.head": 10, "mapping.a->b": 0, "generator.a.encoder": 0}
    assert back.quality == {"mapping.a->b": 0.25}
    assert set(back.statistics) == {"a"}
    assert torch.equal(back.statistics["a"].mean, statistics["a"].mean)
    assert torch.equal(back.statistics["a"].std, statistics["a"].std)


@pytest.mark.parametrize("sums", [{}, {"m_0": (4.0, [1.0, 2.5], [3.0, 4.0]), "b": (0.5, [1e300], [0.1])}])
def test_site_descriptions(sums):
    info = SiteInfo("clinic.north", "abc", "def", ("m_0", "b"), 12, sums)
    assert messages.read_site(travelled(messages.write_site(info))) == info


def test_a_site_without_modalities():
    info = SiteInfo("empty", "", "", (), 0, {})
    assert messages.read_site(travelled(messages.write_site(info))) == info


def test_results():
    stages = [
        StageReport("generator.a", "generator", loss=2.0, steps=3, items=10, seconds=0.5),
        StageReport("generator.b", "generator", loss=8.0, steps=3, items=30, seconds=0.25),
        StageReport("mapping.a->b", "mapping", loss=0.0, steps=0, items=0, seconds=0.1),
        StageReport("task", "task", loss=1.5, steps=2, items=40, seconds=1.0),
    ]
    counts = {"task.head": 40, "mapping.a->b": 9}
    result = TrainResult(GROUPS, counts, {"task.head": 30, "mapping.a->b": 9}, {"mapping.a->b": 0.5}, stages)
    back = messages.read_result(travelled(messages.write_result(result, 40, 2.5, 2.0)))
    for group, state in GROUPS.items():
        same(messages.unpack_group(back.groups[group]), state)
    assert set(back.groups) == set(GROUPS)
    assert back.counts == counts
    assert back.real == {"task.head": 30, "mapping.a->b": 9}
    assert back.quality == {"mapping.a->b": 0.5}
    assert back.samples == 40
    assert not back.kept
    assert messages.read_result(travelled(messages.write_result(replace(result, kept=True), 40, 2.5, 2.0))).kept
    assert back.metrics == {
        "generator.loss": pytest.approx((2.0 * 10 + 8.0 * 30) / 40),
        "generator.items": 40.0,
        "task.loss": 1.5,
        "task.items": 40.0,
    }
    assert back.seconds == {"generator": 0.75, "mapping": 0.1, "task": 1.0, "total": 2.5, "processor": 2.0}


def test_scores():
    confusion, empty = torch.tensor([[3, 1], [0, 2]]), torch.tensor([[0, 0], [5, 0]])
    record = travelled(messages.write_scores({"validation": Score(Counts(confusion), Counts(empty), 1.25)}))
    back = messages.read_scores(messages.scores_of(record), SPEC)["validation"]
    assert torch.equal(back.counts.confusion, confusion)
    assert torch.equal(back.empty.confusion, empty)
    assert back.counts.histograms is None
    assert back.loss_sum == 1.25


def test_scores_of_several_labels():
    several, draw = SPEC.model_copy(update={"target": "multilabel"}), torch.Generator().manual_seed(0)
    counts = target_of(several).count(torch.randn(9, 2, generator=draw), torch.randint(2, (9, 2), generator=draw))
    record = travelled(messages.write_scores({"test": Score(counts, Counts(0 * counts.confusion), 2.5)}))
    back = messages.read_scores(messages.scores_of(record), several)["test"]
    assert torch.equal(back.counts.confusion, counts.confusion)
    assert back.counts.histograms is not None and torch.equal(back.counts.histograms, counts.histograms)
    assert back.empty.samples == 0
    assert back.counts.samples == 9


def test_scores_of_several_labels_are_told_sparsely_and_those_at_hand_not_at_all():
    several = SPEC.model_copy(update={"target": "multilabel"})
    logits, labels = torch.randn(9, 2, generator=torch.Generator().manual_seed(0)), torch.arange(18).reshape(9, 2) % 2
    counts = target_of(several).count(logits, labels)
    told, with_scores = (
        messages.scores_of(messages.write_scores({"test": Score(found, Counts(0 * counts.confusion), 2.5)}))
        for found in (counts, target_of(several).with_scores(counts, logits, labels))
    )
    assert dict(told) == dict(with_scores)
    assert set(told) == {f"test.{name}" for name in ("confusion", "empty_confusion", "bins", "in_bins", "loss_sum")}
    assert len(told["test.bins"]) == len(told["test.in_bins"]) <= 18 == sum(told["test.in_bins"])


# --- groups -----------------------------------------------------------------------------------------------------------


def test_groups_keep_values_shapes_and_dtypes():
    same(messages.unpack_group(travelled(RecordDict({"task.head": messages.pack_group(STATE)}))["task.head"]), STATE)


def test_unpacked_tensors_can_be_written_without_touching_the_record():
    record = messages.pack_group(STATE)
    messages.unpack_group(record)["w"].fill_(9)
    same(messages.unpack_group(record), STATE)


def test_a_transposed_tensor_is_packed_by_its_values():
    turned = STATE["w"].T
    assert torch.equal(messages.unpack_group(messages.pack_group({"w": turned}))["w"], turned)


def test_records_of_a_message_are_told_from_groups_by_their_dot():
    content = messages.write_instruction(
        TrainInstruction("site-0001", "{}", 1, "run", Share(np.arange(3), np.ones((3, 2), dtype=bool)))
    )
    for group, state in GROUPS.items():
        content[group] = messages.bundle(messages.pack_group(state))
    assert set(messages.read_groups(content)) == set(GROUPS)


def test_a_bundle_is_one_array_and_comes_apart_into_the_same_tensors():
    for state in GROUPS.values():
        bundled = messages.bundle(messages.pack_group(state))
        assert len(bundled) == 1
        back = messages.unpack_group(messages.unbundle(bundled))
        assert {name: tensor.dtype for name, tensor in back.items()} == {name: t.dtype for name, t in state.items()}
        assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_a_bundle_whose_bytes_do_not_fit_its_layout_is_refused():
    [(layout, array)] = messages.bundle(messages.pack_group(STATE)).items()
    short = ArrayRecord({layout: Array(np.append(array.numpy(), np.uint8(0)))})
    with pytest.raises(ValueError, match="as the layout says"):
        messages.unbundle(short)


def test_bytes_are_those_of_the_tensors():
    assert messages.record_bytes(messages.pack_group(STATE)) == 4 * 3 * 4 + 5 * 2 + 8
    for state in GROUPS.values():
        assert messages.record_bytes(messages.pack_group(state)) == group_bytes(state)


def test_the_sizes_of_groups_and_a_sites_numbers_are_read_without_opening_an_array():
    result = TrainResult(GROUPS, dict.fromkeys(GROUPS, 3), {"task.head": 2}, {"mapping.a->b": 0.5}, [])
    content = messages.write_result(result, 4, 1.5, 1.0)
    read = messages.read_result(content)
    assert messages.group_sizes(content) == {g: messages.record_bytes(record) for g, record in read.groups.items()}
    for group in GROUPS:
        [array] = content[group].values()
        array.data = b"no array"
    assert messages.group_sizes(content) == {group: group_bytes(state) for group, state in GROUPS.items()}
    assert messages.read_numbers(content) == replace(read, groups={})


def test_flatten_and_unflatten_share_the_arrays():
    groups = {group: messages.pack_group(state) for group, state in GROUPS.items()}
    flat = messages.flatten(groups)
    assert isinstance(flat, ArrayRecord)
    assert set(flat) == {f"{group}/{name}" for group, state in GROUPS.items() for name in state}
    back = messages.unflatten(flat)
    assert {group: list(record) for group, record in back.items()} == {
        group: list(record) for group, record in groups.items()
    }
    for group, record in groups.items():
        for name in record:
            assert flat[f"{group}/{name}"].data is record[name].data
            assert back[group][name].data is record[name].data
