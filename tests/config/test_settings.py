from pathlib import Path

import pytest
import yaml

from longrun.config.settings import StageConfig, model_source, nearest
from longrun.config.stages import STAGES, PackConfig, PrepareConfig
from longrun.config.training import TrainConfig
from longrun.errors import ConfigError


def prepare(**values) -> PrepareConfig:
    return PrepareConfig.parse(
        {"output_dir": "out", "data": "a.jsonl", "tokenizer": "tok", **values}, "prepare"
    )


def test_a_plain_path_stands_for_a_source():
    assert prepare(data=["a.jsonl", "b.jsonl"]) == prepare(
        data=[{"path": "a.jsonl"}, {"path": "b.jsonl"}]
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seeed": 1}, "prepare.seeed: unknown setting; did you mean seed?"),
        ({"filters": [{"pass_rate": {"maxx": 1}}]}, "did you mean max?"),
        ({"data": [{"path": "a", "column": {}}]}, "did you mean columns?"),
        ({"part_bytes": -5}, "prepare.part_bytes: Input should be greater than or equal to 65536"),
        ({"validation_share": 1.5}, "less than or equal to 1 (got 1.5)"),
        ({"code_style": "xml"}, "'tool_call', 'fenced' or 'llm_code'"),
        ({"filters": [{"pass_rate": {}, "problem_type": []}]}, "exactly one name"),
        ({"data": []}, "at least 1 item"),
    ],
)
def test_a_wrong_setting_is_named_with_its_bound_on_one_line(values, message):
    with pytest.raises(ConfigError) as caught:
        prepare(**values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_setting_says_how_to_give_it():
    with pytest.raises(ConfigError, match=r"documents: is required; .* documents=VALUE"):
        PackConfig.parse({"output_dir": "out"}, "pack")


def test_paths_and_speed_are_not_part_of_the_identity():
    one = prepare(num_workers=1, output_dir="elsewhere", tokenizer="other")
    assert one.identity() == prepare().identity()
    assert prepare(seed=1).identity() != prepare().identity()


def test_columns_of_a_source_are_part_of_the_identity_but_its_path_is_not():
    mapped = prepare(data=[{"path": "b.jsonl", "columns": {"problem": "{question}"}}])
    assert mapped.identity() != prepare().identity()
    assert prepare(data="b.jsonl").identity() == prepare().identity()


def test_a_prompt_file_is_known_by_its_content_not_by_its_place():
    one, two = (
        prepare(prompts={"cot": f"{place}/mine.yaml"}, chat_template=f"{place}/mine.jinja")
        for place in ("here", "there")
    )
    assert one.identity() == two.identity() != prepare().identity()
    assert "prompts.cot" in one.inputs()
    assert "chat_template" in one.inputs()


def test_inputs_name_every_path_by_its_dotted_field(tmp_path: Path):
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).touch()
    inputs = prepare(data=str(tmp_path / "*.jsonl"), prompts={"cot": "mine.yaml"}).inputs()
    assert inputs == {
        "data.0.path": [tmp_path / "a.jsonl", tmp_path / "b.jsonl"],
        "tokenizer": [Path("tok")],
        "prompts.cot": [Path("mine.yaml")],
    }


@pytest.mark.parametrize("verb", STAGES)
def test_every_setting_of_every_stage_is_described(verb):
    assert STAGES[verb].__doc__
    missing = [name for name, info in STAGES[verb].model_fields.items() if info.description is None]
    assert missing == []


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig.parse({"output_dir": "o", "packs": "p", "model": "m"}, "train"),
        prepare(filters=[{"pass_rate": {"max": 0.3}}, {"problem_type": ["converted_proof"]}]),
    ],
    ids=["train", "prepare"],
)
def test_a_saved_config_is_a_valid_input(config, tmp_path: Path):
    config.save(tmp_path / "config.yaml")
    assert type(config).parse(yaml.safe_load((tmp_path / "config.yaml").read_text()), "x") == config


def test_nearest_lists_the_known_names_when_none_is_close():
    assert nearest("zzz", ["seed", "data"]) == "known: data, seed"


class Reads(StageConfig):
    """Reads one model and several."""

    model: Path = model_source()
    models: dict[str, Path] = model_source({})


def _model_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_a_model_is_found_in_the_output_folder_of_a_stage(tmp_path):
    averaged = _model_in(tmp_path / "average" / "model").parent
    trained = _model_in(tmp_path / "train" / "final").parent
    plain = _model_in(tmp_path / "base")
    config = Reads(output_dir=tmp_path / "out", model=averaged, models={"a": trained, "b": plain})
    located = config.located()
    assert located.model == averaged / "model"
    assert located.models == {"a": trained / "final", "b": plain}
    assert located.inputs() == config.inputs()  # the same before and after it starts
    assert config.inputs()["model"] == [averaged / "model"]


def test_a_folder_that_holds_a_model_itself_wins_over_what_is_inside(tmp_path):
    base = _model_in(tmp_path / "base")
    _model_in(base / "model")
    assert Reads(output_dir=tmp_path, model=base).located().model == base
