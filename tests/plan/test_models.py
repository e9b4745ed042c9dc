"""Models by name, folder and file."""

import json

import pytest

from longrun.errors import InputError
from longrun.nn.costs import ModelShape
from longrun.plan.models import NAMED, find_model


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("0.5b", 0.494e9), ("1.5B", 1.544e9), ("7b", 7.616e9), ("32b", 32.76e9)],
)
def test_named_models_have_their_published_size(name, parameters):
    assert ModelShape.of(find_model(name)).parameters == pytest.approx(parameters, rel=1e-3)


def test_a_folder_and_its_config_are_the_same_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(NAMED["1.5b"]))
    assert find_model(str(tmp_path)) == find_model(str(tmp_path / "config.json"))
    assert find_model(str(tmp_path)) == find_model("1.5b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a JSON object"),
        ('{"model_type": "gpt2"}', "model_type: is 'gpt2'; supported"),
    ],
)
def test_a_config_that_cannot_be_used_is_named(tmp_path, text, words):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        find_model(str(path))
    assert str(caught.value).startswith(str(path))


def test_an_unknown_name_gets_the_nearest_known_one():
    with pytest.raises(InputError, match=r"7bb: no such file; .* did you mean 7b\?"):
        find_model("7bb")
