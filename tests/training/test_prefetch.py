import threading

import pytest

from longrun.training.prefetch import Prefetch


@pytest.mark.parametrize("depth", [0, 1, 3, 99])
def test_everything_comes_once_in_order(depth):
    with Prefetch(lambda index: index * index, 2, 9, depth) as squares:
        assert [squares.take() for _ in range(2, 9)] == [index * index for index in range(2, 9)]


def test_what_is_ahead_is_made_meanwhile_and_no_more_than_that():
    made = []
    fourth = threading.Event()

    def make(index: int) -> int:
        made.append(index)
        if index == 3:
            fourth.set()
        return index

    with Prefetch(make, 0, 100, 3) as numbers:
        assert numbers.take() == 0
        assert fourth.wait(60)
    assert made == [0, 1, 2, 3]


def test_an_error_is_raised_where_its_batch_is_needed():
    with Prefetch(lambda index: 1 // (1 - index), 0, 5, 4) as numbers:
        assert numbers.take() == 1
        with pytest.raises(ZeroDivisionError):
            numbers.take()
