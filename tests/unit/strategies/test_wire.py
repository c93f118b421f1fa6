"""What messages weigh on the wire."""

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from server.federation.messaging import WireMeter
from strategies import messages

pytestmark = pytest.mark.quick


def content(scale: float = 1.0) -> RecordDict:
    groups = {
        "task.head": {"w": torch.randn(7, 3) * scale, "b": torch.randn(7)},
        "task.extractor.a": {"w": torch.ones(5)},
    }
    packed = RecordDict({name: messages.bundle(state) for name, state in groups.items()})
    packed["run"] = ConfigRecord({"config": "{}", "round": 3})
    return packed


def test_a_message_weighs_all_the_objects_that_flower_sends() -> None:
    message = content()
    assert WireMeter().weigh(message) == sum(len(item.deflate()) for item in get_all_nested_objects(message).values())


def test_groups_are_weighed_once_whatever_their_values() -> None:
    meter = WireMeter()
    assert meter.weigh(content()) == meter.weigh(content(scale=100.0)) == WireMeter().weigh(content(scale=100.0))


def test_the_total_goes_on_where_a_resumed_run_stopped() -> None:
    meter = WireMeter(100)
    meter.add(content())
    assert meter.total == 100 + WireMeter().weigh(content())
