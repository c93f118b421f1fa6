"""Messages: everything that is written is read back; bytes are those of the tensors."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict

from fedrecon_core.data.allocation import Share
from fedrecon_core.data.statistics import Statistics
from fedrecon_core.errors import DataError
from fedrecon_core.local.evaluate import Score
from fedrecon_core.local.local_round import TrainResult
from fedrecon_core.local.stage_runner import StageReport
from fedrecon_core.metrics.base import Counts
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.state import group_bytes
from fedrecon_core.task.target import target_of
from fedrecon_core.types import DatasetSpec
from strategies import messages
from strategies.messages import Accepted, Identity, SiteError, SiteInfo, TrainInstruction, TrainReply

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
def test_instructions(share):
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
def test_an_instruction_names_the_version_of_its_state_that_a_site_continues_from(accepted, needed):
    back = messages.read_instruction(
        travelled(messages.write_instruction(TrainInstruction("site-0001", "{}", 8, "run", accepted=accepted)))
    )
    assert back.accepted == accepted
    assert back.accepted.rounds == needed


def test_global_info_has_the_groups_and_statistics_that_were_asked_for():
    statistics = {m: Statistics(torch.tensor([0.1, 0.2]).double(), torch.tensor([1.0, 3.0]).double()) for m in "ab"}
    global_info = GlobalInfo(
        4, {"task.head": 10, "task.extractor.a": 3}, {"mapping.a->b": 0.25, "mapping.b->a": 0.5}, statistics
    )
    content = messages.write_instruction(TrainInstruction("site-0001", "{}", 4, "run"))
    messages.write_global_info(
        content, global_info, ["task.head", "mapping.a->b", "generator.a.encoder"], ["a", "unknown"]
    )
    back = messages.read_global_info(travelled(content))
    assert back.round == 4
    assert back.trained == {"task.head": 10, "mapping.a->b": 0, "generator.a.encoder": 0}
    assert back.quality == {"mapping.a->b": 0.25}
    assert set(back.statistics) == {"a"}
    assert torch.equal(back.statistics["a"].mean, statistics["a"].mean)
    assert torch.equal(back.statistics["a"].std, statistics["a"].std)


@pytest.mark.parametrize("sums", [{}, {"m_0": (4.0, [1.0, 2.5], [3.0, 4.0]), "b": (0.5, [1e300], [0.1])}])
def test_site_descriptions(sums):
    info = SiteInfo("clinic.north", "abc", "def", ("m_0", "b"), 12, sums)
    assert messages.read_site_info(travelled(messages.write_site_info(info))) == info


def test_a_site_without_modalities():
    info = SiteInfo("empty", "", "", (), 0, {})
    assert messages.read_site_info(travelled(messages.write_site_info(info))) == info


def test_train_replies():
    stages = [
        StageReport("generator.a", "generator", loss=2.0, steps=3, items=10, seconds=0.5),
        StageReport("generator.b", "generator", loss=8.0, steps=3, items=30, seconds=0.25),
        StageReport("mapping.a->b", "mapping", loss=0.0, steps=0, items=0, seconds=0.1),
        StageReport("task", "task", loss=1.5, steps=2, items=40, seconds=1.0),
    ]
    counts = {"task.head": 40, "mapping.a->b": 9}
    result = TrainResult(GROUPS, counts, {"task.head": 30, "mapping.a->b": 9}, {"mapping.a->b": 0.5}, stages)
    reply = TrainReply.of(result, 40, 2.5, 2.0, Identity("code", "spec", "data"))
    back = messages.read_train_reply(travelled(messages.write_train_reply(reply)))
    for group, state in GROUPS.items():
        same(back.groups[group], state)
    assert back.identity == Identity("code", "spec", "data")
    assert set(back.groups) == set(GROUPS)
    assert back.counts == counts
    assert back.real == {"task.head": 30, "mapping.a->b": 9}
    assert back.quality == {"mapping.a->b": 0.5}
    assert back.samples == 40
    assert not back.kept
    assert messages.read_train_reply(travelled(messages.write_train_reply(replace(reply, kept=True)))).kept
    assert TrainReply.of(replace(result, kept=True), 40, 2.5, 2.0, Identity("", "")).kept
    assert back.metrics == {
        "generator.loss": pytest.approx((2.0 * 10 + 8.0 * 30) / 40),
        "generator.items": 40.0,
        "task.loss": 1.5,
        "task.items": 40.0,
    }
    assert back.seconds == {"generator": 0.75, "mapping": 0.1, "task": 1.0, "total": 2.5, "processor": 2.0}


def test_scores():
    confusion, empty = np.array([[3, 1], [0, 2]]), np.array([[0, 0], [5, 0]])
    record = travelled(messages.write_scores({"validation": Score(Counts(confusion), Counts(empty), 1.25)}))
    back = messages.read_scores(messages.scores_of(record), SPEC)["validation"]
    assert np.array_equal(back.counts.confusion, confusion)
    assert np.array_equal(back.empty.confusion, empty)
    assert back.counts.histograms is None
    assert back.loss_sum == 1.25


def test_scores_of_several_labels():
    several, draw = SPEC.model_copy(update={"target": "multilabel"}), torch.Generator().manual_seed(0)
    counts = target_of(several).count(torch.randn(9, 2, generator=draw), torch.randint(2, (9, 2), generator=draw))
    record = travelled(messages.write_scores({"test": Score(counts, Counts(0 * counts.confusion), 2.5)}))
    back = messages.read_scores(messages.scores_of(record), several)["test"]
    assert np.array_equal(back.counts.confusion, counts.confusion)
    assert back.counts.histograms is not None and np.array_equal(back.counts.histograms, counts.histograms)
    assert back.empty.samples == 0
    assert back.counts.samples == 9


def test_scores_of_several_labels_are_sent_sparsely_and_those_of_single_samples_not_at_all():
    several = SPEC.model_copy(update={"target": "multilabel"})
    logits, labels = torch.randn(9, 2, generator=torch.Generator().manual_seed(0)), torch.arange(18).reshape(9, 2) % 2
    counts = target_of(several).count(logits, labels)
    record, with_scores = (
        messages.scores_of(messages.write_scores({"test": Score(found, Counts(0 * counts.confusion), 2.5)}))
        for found in (counts, target_of(several).with_scores(counts, logits, labels))
    )
    assert dict(record) == dict(with_scores)
    assert set(record) == {f"test.{name}" for name in ("confusion", "empty_confusion", "bins", "in_bins", "loss_sum")}
    assert len(record["test.bins"]) == len(record["test.in_bins"]) <= 18 == sum(record["test.in_bins"])


# --- groups -----------------------------------------------------------------------------------------------------------


def test_groups_keep_values_shapes_and_dtypes():
    content = travelled(RecordDict({group: messages.bundle(state) for group, state in GROUPS.items()}))
    back = messages.read_groups(content)
    assert set(back) == set(GROUPS)
    for group, state in GROUPS.items():
        same(back[group], state)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.uint8, torch.float16, torch.bool])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 1, 3), (5,)])
def test_a_tensor_of_any_type_and_shape_survives_beside_one_that_unaligns_it(dtype, shape):
    state = {"odd": torch.ones(3, dtype=torch.uint8), "x": torch.ones(shape).to(dtype)}
    same(messages.unbundle(messages.bundle(state)), state)


def test_read_tensors_can_be_written_without_touching_the_record():
    record = messages.bundle(STATE)
    messages.unbundle(record)["w"].fill_(9)
    same(messages.unbundle(record), STATE)


def test_a_transposed_tensor_is_sent_by_its_values():
    turned = STATE["w"].T
    assert torch.equal(messages.unbundle(messages.bundle({"w": turned}))["w"], turned)


def test_records_of_a_message_are_told_from_groups_by_their_dot():
    content = messages.write_instruction(
        TrainInstruction("site-0001", "{}", 1, "run", Share(np.arange(3), np.ones((3, 2), dtype=bool)))
    )
    for group, state in GROUPS.items():
        content[group] = messages.bundle(state)
    assert set(messages.read_groups(content)) == set(GROUPS)


def test_a_bundle_is_one_array_of_bytes_as_flower_makes_it():
    for state in GROUPS.values():
        [(layout, array)] = messages.bundle(state).items()
        content = b"".join(tensor.numpy().tobytes() for tensor in state.values())
        flowers = Array(np.frombuffer(content, dtype=np.uint8))
        assert (array.dtype, array.shape, array.stype, array.data) == (
            flowers.dtype,
            flowers.shape,
            flowers.stype,
            flowers.data,
        )
        assert [entry[0] for entry in json.loads(layout)] == list(state)


def test_a_group_without_tensors_is_an_empty_bundle():
    assert messages.unbundle(messages.bundle({})) == {}


def bundle_of(layout: object, data: np.ndarray) -> ArrayRecord:
    return ArrayRecord({json.dumps(layout): Array(data)})


BYTES = np.zeros(12, dtype=np.uint8)


@pytest.mark.parametrize(
    ("record", "error", "words"),
    [
        (bundle_of([["w", "float32", [2]]], BYTES), ValueError, "expected 8 bytes according to the layout, found 12"),
        (bundle_of([["w", "float32", [4]]], BYTES), ValueError, "expected 16 bytes according to the layout, found 12"),
        (bundle_of([["w", "float32", [-1, -3]]], BYTES), ValueError, "expected a shape, found"),
        (bundle_of([["w", "float32", [-1]], ["v", "float32", [4]]], BYTES), ValueError, "expected a shape, found"),
        (bundle_of([["w", "object", [1]]], BYTES), (TypeError, ValueError), ".+"),
        (bundle_of([["w", "no_such_type", [1]]], BYTES), TypeError, "no_such_type"),
        (bundle_of([["w", ">f4", [3]]], BYTES), ValueError, "byte order"),
        (bundle_of([["w", "S4", [3]]], BYTES), TypeError, ".+"),
        (bundle_of({"w": 1}, BYTES), ValueError, ".+"),
        (bundle_of([], BYTES), ValueError, "expected 0 bytes according to the layout, found 12"),
        (ArrayRecord({"no json": Array(BYTES)}), ValueError, ".+"),
        (ArrayRecord({"[]": Array("uint8", (12,), "pickle", BYTES.tobytes())}), ValueError, "NumPy's format"),
        (ArrayRecord({"[]": Array("uint8", (12,), "numpy.ndarray", b"nonsense")}), ValueError, "NumPy's format"),
        (ArrayRecord({"[]": Array("uint8", (12,), "numpy.ndarray", b"")}), ValueError, "NumPy's format"),
        (ArrayRecord({"a": Array(BYTES), "b": Array(BYTES)}), ValueError, "expected one array per group, found 2"),
        (ArrayRecord(), ValueError, "expected one array per group, found 0"),
    ],
)
def test_what_is_no_bundle_is_refused(record, error, words):
    with pytest.raises(error, match=words):
        messages.unbundle(record)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: data[:130]])
def test_too_few_or_too_many_bytes_are_refused(change):
    record = messages.bundle(STATE)
    [array] = record.values()
    array.data = change(array.data)
    with pytest.raises(ValueError, match="according to the layout"):
        messages.unbundle(record)


def test_bytes_are_those_of_the_tensors_and_are_read_without_opening_an_array():
    result = TrainResult(GROUPS, dict.fromkeys(GROUPS, 3), {"task.head": 2}, {"mapping.a->b": 0.5}, [])
    reply = TrainReply.of(result, 4, 1.5, 1.0, Identity("", ""))
    content = messages.write_train_reply(reply)
    assert reply.sizes == messages.read_train_reply(content).sizes == messages.group_sizes(content)
    for group in GROUPS:
        [array] = content[group].values()
        array.data = b"no array"
    assert messages.group_sizes(content) == {group: group_bytes(state) for group, state in GROUPS.items()}
    assert messages.group_sizes(content)["task.head"] == 4 * 3 * 4 + 5 * 2 + 8


def test_flatten_and_unflatten():
    flat = messages.flatten(GROUPS)
    assert isinstance(flat, ArrayRecord)
    assert set(flat) == {f"{group}/{name}" for group, state in GROUPS.items() for name in state}
    back = messages.unflatten(flat)
    assert {group: list(state) for group, state in back.items()} == {g: list(state) for g, state in GROUPS.items()}
    for group, state in GROUPS.items():
        same(back[group], state)


# --- errors -----------------------------------------------------------------------------------------------------------


def test_an_error_travels_with_its_kind_and_its_message():
    content = travelled(messages.write_error(DataError("no folder 'x'")))
    assert messages.read_error(content) == SiteError("DataError", "no folder 'x'")
    assert messages.read_error(messages.write_scores({})) is None
