"""Records whose prompt is filled in already are the same as the records that filled it."""

import random

import pytest

from longrun.data.documents import prepare
from longrun.data.documents.inspect import show_document
from longrun.data.records.prompt_templates import get_prompt
from longrun.errors import InputError
from longrun.formats.text.spans import SpanKind

PROMPTS = {"cot": "generic/math", "tir": "openmath/tir", "genselect": {"user": "{problem}"}}


def make_ready(record: dict, layout: str = "qwen-instruct", budget: int = 3) -> dict:
    """Fill the prompt as a script of an earlier pipeline does."""
    prompt = get_prompt(PROMPTS[record["inference_mode"]], layout)
    filled = prompt.fill({**record, "total_code_executions": budget})
    response = record["generated_solution"] + prompt.config.template.assistant_end
    rest = {key: record[key] for key in record.keys() - {"problem", "generated_solution"}}
    return {**rest, "input": filled, "output": response}


@pytest.fixture
def rows(samples):
    rows = [row for row in samples.records(120) if row["inference_mode"] != "tir"]
    rng = random.Random(1)
    tools = [samples.record(rng) | {"inference_mode": "tir", "generated_solution": SOLUTION}]
    # Look-alikes of control tokens and of the prompt's own words stay what they are: text.
    rows[0]["problem"] = "What is <|im_end|>\\n<|im_start|>user\\n{problem}?"
    rows[1]["problem"] = "a\\n\\nSolve the math problem below"
    return rows + tools


SOLUTION = (
    "<think>\n<tool_call>\nprint(1)\n</tool_call>\n```output\n1\n```\n"
    "```system\nRemaining code executions: 2. Take care.\n```\n</think>\nSo \\boxed{1}."
)


def test_ready_records_give_the_bytes_of_the_raw_records(rows, samples, make_config, tmp_path):
    raw = samples.write_jsonl(tmp_path / "raw.jsonl", rows)
    ready = samples.write_jsonl(tmp_path / "ready.jsonl", map(make_ready, rows))
    settings = {"validation_share": 0.2, "filters": [{"duplicates": "problem"}]}
    prepare.run(make_config(data=raw, output_dir=tmp_path / "a", **settings))
    data = [{"path": str(ready), "layout": "qwen-instruct"}]
    prepare.run(make_config(data=data, output_dir=tmp_path / "b", **settings))
    for split in ("train", "validation"):
        for path in sorted((tmp_path / "a" / split).iterdir()):
            assert path.read_bytes() == (tmp_path / "b" / split / path.name).read_bytes()
        assert len(list((tmp_path / "a" / split).iterdir())) == 3


def test_the_budget_that_a_ready_prompt_states_is_kept(rows, samples, make_config, tmp_path):
    ready = samples.write_jsonl(tmp_path / "ready.jsonl", [make_ready(rows[-1], budget=1)])
    data = [{"path": str(ready), "layout": "qwen-instruct"}]
    prepare.run(make_config(data=data, output_dir=tmp_path / "out"))
    weights = dict.fromkeys(SpanKind, 1.0)
    spans = show_document(tmp_path / "out", "train", 0, weights)[1]
    text = "".join(span.text for span in spans)
    assert "at most 1 times" in text
    assert text.endswith("So \\boxed{1}.<|im_end|>")


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"input": "What is 1 + 1?"}, {}, "is no prompt in the layout qwen-instruct"),
        ({"input": None}, {}, "column input"),
        ({"inference_mode": "proof"}, {}, "inference_mode 'proof' has no prompt"),
        ({}, {"prompts": {"cot": "math-tir"}}, "set prompts.cot to the prompt config"),
        ({}, {"layout": "qwen-instrct"}, "did you mean qwen-instruct"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused_with_file_and_line(
    change, settings, message, rows, samples, make_config, tmp_path
):
    record = next(row for row in rows if row["inference_mode"] == "cot")
    layout = settings.pop("layout", "qwen-instruct")
    changed = {key: value for key, value in (make_ready(record) | change).items() if value}
    ready = samples.write_jsonl(tmp_path / "ready.jsonl", [make_ready(record), changed])
    data = [{"path": str(ready), "layout": layout}]
    with pytest.raises(InputError, match=message) as caught:
        prepare.run(make_config(data=data, **settings))
    assert "ready.jsonl:" in str(caught.value) or "prompt template" in str(caught.value)


def test_a_chat_template_that_does_not_render_the_layout_is_refused(
    rows, samples, make_config, tmp_path
):
    record = next(row for row in rows if row["inference_mode"] == "cot")
    template = tmp_path / "other.jinja"
    template.write_text(
        "{% for message in messages %}<|im_start|>{{ message['role'] }}: {{ message['content'] }}"
        "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    ready = samples.write_jsonl(tmp_path / "ready.jsonl", [make_ready(record)])
    data = [{"path": str(ready), "layout": "qwen-instruct"}]
    with pytest.raises(InputError, match="renders it differently"):
        prepare.run(make_config(data=data, chat_template=str(template)))
