import json

import pytest

from longrun.config.evaluation import CheckContaminationConfig
from longrun.data.documents import check_contamination, prepare
from longrun.data.documents.compose import is_held_out, problem_id
from longrun.errors import ConfigError, InputError
from longrun.formats.contamination import MATCHES_NAME, Match, read_contamination
from longrun.formats.predictions import read_rows

COPIED = "Let us compute the sum of x and y when x is 3 and y is 4 and z is 5."
EMBEDDED = "How many ways are there to tile a 2 by 10 board with dominoes of any colour?"
NEAR = "A train leaves the station at noon and travels 40 miles per hour for exactly 6 hours."
REWORDED = "If Ann has twice as many apples as Bob, and Bob has nine, how many has Ann?"
ABSENT = "Determine every prime p such that p squared plus two is again a prime number."


@pytest.fixture
def documents(samples, make_config, tmp_path):
    """Prepare problems that hold some benchmark problems: two modes, several solutions each."""
    rng_rows = samples.records(30)
    problems = [
        COPIED.lower().replace("sum", " sum "),
        f"You are given a puzzle. {EMBEDDED} Explain.",
        NEAR.replace("40 miles", "60 miles") + " How far does it get?",
        "Ann has two times the number of apples that Bob has. Bob owns 9. Count Ann's apples.",
    ]
    rows = [
        {**rng_rows[place], "problem": text, "inference_mode": mode}
        for place, (text, mode) in enumerate(
            (text, mode) for text in problems for mode in ("cot", "cot", "genselect")
        )
    ]
    data = samples.write_jsonl(tmp_path / "records.jsonl", [*rng_rows[20:], *rows])
    prepare.run(make_config(data=data, missing_budget="pass", output_dir=tmp_path / "documents"))
    return tmp_path / "documents"


@pytest.fixture
def benchmark(tmp_path):
    path = tmp_path / "bench.jsonl"
    texts = [COPIED, EMBEDDED, NEAR, REWORDED, ABSENT]
    path.write_text("".join(json.dumps({"problem": text}) + "\n" for text in texts))
    return path


def check(documents, benchmarks, folder, **settings):
    values = {"documents": documents, "benchmarks": benchmarks, "output_dir": folder, **settings}
    return check_contamination.run(CheckContaminationConfig.parse(values, "check_contamination"))


def test_copies_and_near_copies_are_found_and_reworded_problems_are_not(
    documents, benchmark, tmp_path
):
    manifest = check(documents, str(benchmark), tmp_path / "out", ngram=8)
    (found,) = read_contamination(tmp_path / "out").benchmarks
    assert (found.problems, found.same_text, found.all_words, found.n_words) == (5, 1, 1, 1)
    assert (found.training_problems, found.documents) == (3, 9)
    assert manifest.counts["found"] == 3
    assert (
        "| bench | 5 | 1 | 1 | 1 | 2 | 3 | 9 |" in (tmp_path / "out/contamination.md").read_text()
    )


def test_every_match_names_document_and_source(documents, benchmark, tmp_path):
    check(documents, str(benchmark), tmp_path / "out", ngram=8)
    matches = [row for _, row in read_rows(tmp_path / "out" / MATCHES_NAME, Match)]
    assert [(one.id, one.kind, one.split, one.documents) for one in matches] == [
        ("bench-1", "same text", "train", 3),
        ("bench-2", "all words", "train", 3),
        ("bench-3", "n words", "train", 3),
    ]
    copied = matches[0]
    assert copied.source == f"{tmp_path / 'records.jsonl'}:11"
    assert copied.document == 10
    assert copied.training_problem == COPIED.lower().replace("sum", " sum ")  # without its prompt
    assert 0 < matches[2].overlap < 1 == matches[1].overlap


def test_held_out_problems_and_several_folders_are_looked_at_too(
    samples, make_config, benchmark, tmp_path
):
    rows = samples.records(40)
    data = samples.write_jsonl(tmp_path / "r.jsonl", [{**rows[0], "problem": COPIED}, *rows[1:]])
    seed = next(seed for seed in range(99) if is_held_out(problem_id(COPIED), 0.5, seed))
    for folder in ("1", "2"):
        held_out = {"validation_share": 0.5, "seed": seed}
        prepare.run(make_config(data=data, output_dir=tmp_path / folder, **held_out))
    check([tmp_path / "1", tmp_path / "2"], str(benchmark), tmp_path / "out")
    matches = [row for _, row in read_rows(tmp_path / "out" / MATCHES_NAME, Match)]
    assert [(one.split, one.folder[-1]) for one in matches] == [
        ("validation", "1"),
        ("validation", "2"),
    ]
    (found,) = read_contamination(tmp_path / "out").benchmarks
    assert (found.same_text, found.documents) == (1, 2)


def test_a_part_is_refused(samples, make_config, benchmark, tmp_path):
    data = samples.write_jsonl(tmp_path / "r.jsonl", samples.records(5))
    prepare.run(make_config(data=data, part="1/1", output_dir=tmp_path / "part"))
    with pytest.raises(InputError, match="is a part or not finished; merge or prepare it first"):
        check(tmp_path / "part", str(benchmark), tmp_path / "out")


def test_a_prompt_of_ones_own_is_taken_off(samples, make_config, benchmark, tmp_path):
    prompt = tmp_path / "own.yaml"
    prompt.write_text("system: Be {mood}.\nuser: 'First {problem} then {problem} {mood}!'\n")
    rows = [{**row, "mood": "calm"} for row in samples.records(3)]
    rows[1]["problem"] = COPIED
    data = samples.write_jsonl(tmp_path / "r.jsonl", rows)
    prompts = {mode: str(prompt) for mode in ("cot", "tir", "genselect")}
    prepare.run(
        make_config(data=data, prompts=prompts, missing_budget="pass", output_dir=tmp_path / "own")
    )
    check(tmp_path / "own", str(benchmark), tmp_path / "out")
    (found,) = read_contamination(tmp_path / "out").benchmarks
    assert (found.same_text, found.training_problems) == (1, 1)


def test_bad_input_is_named(documents, benchmark, tmp_path):
    with pytest.raises(InputError, match="holds no documents; name an output of prepare or merge"):
        check(tmp_path, str(benchmark), tmp_path / "out")
    with pytest.raises(InputError, match=r"none\.jsonl: does not exist"):
        check(documents, str(tmp_path / "none.jsonl"), tmp_path / "out")
    benchmark.write_text('{"question": "x"}\n')
    with pytest.raises(InputError, match=r"bench\.jsonl:1: has no field problem"):
        check(documents, str(benchmark), tmp_path / "out")
    with pytest.raises(ConfigError, match="two benchmarks are called 'bench'"):
        check(documents, [str(benchmark)] * 2, tmp_path / "out")
