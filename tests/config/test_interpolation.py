import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.config.interpolation import fill, fill_words, find_upstream
from longrun.errors import ConfigError


@given(st.permutations(["a", "b", "c", "d"]))
def test_words_are_filled_in_whatever_their_order(order):
    raw = {"a": "${b}/${c}", "b": "${c}x", "c": "${d}", "d": "root"}
    filled = fill_words({name: raw[name] for name in order}, "x")
    assert filled == {"a": "rootx/root", "b": "rootx", "c": "root", "d": "root"}


def test_a_reference_that_is_the_whole_text_keeps_lists_and_mappings_and_fills_them():
    words = fill_words({"folder": "f", "files": [{"path": "${folder}/a"}], "n": 3}, "x")
    filled = fill({"data": "${files}", "steps": ["${n}", "${n}0"]}, words, "x")
    assert filled == {"data": [{"path": "f/a"}], "steps": [3, "30"]}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"a": "${a}"}, "x.yaml: settings refer to each other: a -> a; give one a value"),
        ({"a": "${b}", "b": ["${c}"], "c": {"k": "${a}"}}, "a -> b -> c -> a"),
        ({"folder": "${foldr}"}, "x.yaml: folder: unknown ${foldr}; did you mean folder?"),
    ],
)
def test_circles_and_unknown_words_are_named(raw, message):
    with pytest.raises(ConfigError) as caught:
        fill_words(raw, "x.yaml")
    assert message in str(caught.value)


def test_a_folder_is_upstream_when_a_setting_points_into_it_and_not_when_names_begin_alike():
    folders = {"pack": "runs/pack", "packs": "runs/packs", "train": "runs/train"}
    settings = {
        "packs": "runs/packs/x",
        "more": [{"deep": "runs/pack"}],
        "output_dir": "runs/train",
    }
    assert find_upstream("train", settings, folders) == {"pack", "packs"}
