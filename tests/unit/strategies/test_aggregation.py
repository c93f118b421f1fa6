"""Weighted means of groups against NumPy."""

import numpy as np
import pytest
import torch

from strategies.averages import weighted_mean

pytestmark = pytest.mark.quick


def states(count: int = 5, scale: float = 1.0) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return [
        {
            "w": scale * torch.randn(3, 4, generator=draw),
            "b": torch.randn(4, generator=draw),
            "s": torch.tensor(1.0 + i),
        }
        for i in range(count)
    ]


@pytest.mark.parametrize("weights", [[1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 0.0, 7.0, 0.0, 1.0]])
def test_the_mean_equals_numpys(weights):
    given = states()
    found = weighted_mean(given, weights)
    for name in ("w", "b", "s"):
        expected = np.average([state[name].double().numpy() for state in given], axis=0, weights=weights)
        np.testing.assert_allclose(found[name].numpy(), expected.astype(np.float32), rtol=1e-7)
        assert found[name].dtype == torch.float32
        assert found[name].shape == given[0][name].shape


def test_one_state_comes_back_bit_for_bit():
    (state,) = states(1)
    found = weighted_mean([state], [3.0])
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert found["w"] is not state["w"]


def test_equal_states_come_back_unchanged_whatever_the_weights():
    state = states(1)[0]
    found = weighted_mean([state] * 7, [0.1 * (i + 1) for i in range(7)])
    torch.testing.assert_close(found["w"], state["w"], rtol=1e-7, atol=0)


def test_sums_are_kept_in_float64():
    """In float32 the small ones would be lost beside the large one."""
    values = [1e8, 1.0, 1.0, -1e8]
    found = weighted_mean([{"x": torch.tensor([v])} for v in values], [1.0] * 4)
    assert found["x"].item() == 0.5


def test_the_result_depends_on_the_states_alone_not_on_earlier_calls_and_inputs_stay():
    given = states()
    before = [{name: tensor.clone() for name, tensor in state.items()} for state in given]
    first, second = weighted_mean(given, [1.0] * 5), weighted_mean(given, [1.0] * 5)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(a[n], b[n]) for a, b in zip(given, before, strict=True) for n in a)


def test_an_empty_tensor_stays_empty():
    assert weighted_mean([{"x": torch.zeros(0)}] * 2, [1.0, 1.0])["x"].shape == (0,)


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0]])
def test_no_positive_weight_is_an_error(weights):
    with pytest.raises(ValueError, match="positive weight"):
        weighted_mean(states(2), weights)


def test_nothing_to_average_is_an_error():
    with pytest.raises(ValueError, match="at least one state"):
        weighted_mean([], [])


def test_states_that_hold_different_tensors_are_an_error():
    with pytest.raises(ValueError, match="expected states with the same tensors"):
        weighted_mean([{"a": torch.zeros(1)}, {"b": torch.zeros(1)}], [1.0, 1.0])


def test_a_weight_for_each_state_is_required():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        weighted_mean(states(2), [1.0])
