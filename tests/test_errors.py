import pickle

import pytest

from longrun import errors

TREE = [errors.LongrunError, *errors.LongrunError.__subclasses__()]


@pytest.mark.parametrize("error", TREE, ids=lambda error: error.__name__)
def test_errors_survive_the_way_between_processes(error):
    copy = pickle.loads(pickle.dumps(error("a: b")))
    assert type(copy) is error
    assert str(copy) == "a: b"


def test_messages_are_folded_onto_one_line():
    assert str(errors.InputError.at("x.jsonl", 17, "not\n  JSON")) == "x.jsonl:17: not JSON"
