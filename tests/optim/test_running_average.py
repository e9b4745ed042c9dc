import pytest
import torch

from longrun.optim.running_average import RunningAverage


def test_it_is_the_plain_mean_at_first_and_an_exponential_one_later():
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    average = RunningAverage([("w", weight)], 0.75)
    expected = 0.0
    for count, value in enumerate([4.0, 8.0, 3.0, 9.0, 5.0, 1.0], 1):
        with torch.no_grad():
            weight.fill_(value)
        average.update(count)
        keep = (count - 1) / count if count <= 4 else 0.75
        expected = keep * expected + (1 - keep) * value
        if count == 3:
            assert average.state()["w"][0, 0].item() == pytest.approx(5.0)
        assert average.state()["w"][0, 0].item() == pytest.approx(expected)
    assert torch.equal(weight, torch.ones(2, 2))


def test_the_mean_stands_in_for_the_weights_and_both_come_back_bitwise():
    weight = torch.nn.Parameter(torch.randn(3))
    before = weight.detach().clone()
    average = RunningAverage([("w", weight)], 0.5)
    average.update(1)
    with torch.no_grad():
        weight.mul_(3)
    with average.in_place_of_the_weights():
        assert torch.equal(weight, before)
        assert torch.equal(average.state()["w"], before * 3)
    assert torch.equal(weight, before * 3)
    assert torch.equal(average.state()["w"], before)
