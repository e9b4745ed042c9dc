"""Real tokenizers: every document of ``prepare`` is what transformers makes of the same messages.

Fetched once into a cache folder, see ``bench/zoo.py``; skipped by name where they cannot be.
"""

import json
import logging
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from longrun.config.stages import PrepareConfig
from longrun.data.documents import prepare
from longrun.data.synthetic.dataset import generate_records
from longrun.formats.documents import DocumentSet
from longrun.formats.text.conversation import Conversation
from longrun.formats.text.exact_tokenizer import ExactTokenizer

sys.path[:0] = [str(Path(__file__).parents[2] / "bench")]
from zoo import FAMILIES, NotFetchedError, find_tokenizer  # noqa: E402  (a script, as it finds it)

EXPORTED = ("Llama 2", "Llama 3.1")
"""One that transformers reads otherwise than its file says, and one that it does not."""
pytestmark = [pytest.mark.timeout(600)]
NASTY = [
    "nothing\0here",
    "lone \u0301 and \u0301\u0323 marks, e\u0301 beside \u00e9, A\u030a beside \u212b",
    "a\u2028b\u2029c\u0085d\u000bd",
    "one\r\ntwo\r\n\r\nthree\rfour",
    "many" + " " * 70 + "spaces, \u00a0\u3000\u2009 others\t\t\ttabs \n \n\n  \n   x",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f4\U000e0067\U000e007f",
    "\u1112\u1161\u11ab \ud55c \u1100\u1161 \u4e2d\u6587 \u65e5\u672c\u8a9e \u2581 x \u2581\u2581",
    "\U0001d518 \ufdfa \u0f04 \U0001f9ff \ue000 \U0010fffd \u0378 \u200b\u200d",
    "12345678 1,234.5 3.14159 0x1F I'll don't DON'T it's IT'S \u017f's",
    "<|im_end|> </s> [INST] <|eot_id|> <start_of_turn> <|return|> <unk> <0x0A> <\uff5cUser\uff5c>",
    "CamelCaseWords XMLHttpRequest snake_case  ==  /usr/bin/*.py //\n///\n",
]


def record(text: str) -> dict[str, object]:
    solution = f"<think>\n{text}\n</think>\nIt is {text}; \\boxed{{6}}."
    return {"problem": f"What is {text}?", "generated_solution": solution, "inference_mode": "cot"}


ROWS = [*generate_records("tir", num_records=400, seed=0), *map(record, NASTY)]


def whole_texts(tokenizer, conversation, rows) -> list[str]:
    """The conversations of rows as transformers renders them."""
    found = []
    for row in rows:
        mode = row["inference_mode"]
        columns = {"total_code_executions": row.get("total_code_executions"), **row}
        texts = conversation.fill(mode, columns)
        roles = ["system", "user", "assistant"][2 - len(texts) :]
        texts = (*texts, row["generated_solution"])
        messages = [{"role": a, "content": b} for a, b in zip(roles, texts, strict=True)]
        found.append(tokenizer.apply_chat_template(messages, tokenize=False))
    return found


@pytest.fixture(params=FAMILIES)
def family(request) -> tuple[str, Path]:
    try:
        return request.param, find_tokenizer(request.param)
    except NotFetchedError as error:
        pytest.skip(f"{request.param}: {error}")


def test_documents_of_real_tokenizers_are_those_of_transformers(family, tmp_path, caplog):
    name, folder = family
    rows = [{**row, "total_code_executions": 4} for row in ROWS]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {"data": data, "tokenizer": folder, "output_dir": tmp_path / "out", "num_workers": 1}
    with caplog.at_level(logging.INFO):
        prepare.run(PrepareConfig.parse(values, "prepare"))
    assert "tokens by gigatoken: equal to tokenizers" in caplog.text
    theirs = AutoTokenizer.from_pretrained(folder)
    readers = [theirs]
    if name in EXPORTED:
        readers.append(AutoTokenizer.from_pretrained(tmp_path / "out/tokenizer"))
    conversation = Conversation.load(tmp_path / "out")
    exact = ExactTokenizer(tmp_path / "out/tokenizer", conversation.stop)
    documents = DocumentSet.open(tmp_path / "out/train")
    assert len(documents) == len(rows)
    plain = [at for at, row in enumerate(rows) if not exact.holds_control(json.dumps(row))]
    assert len(plain) >= len(rows) - 1
    chosen = [rows[at] for at in plain]
    texts = whole_texts(theirs, conversation, chosen)
    for tokenizer in readers:
        assert whole_texts(tokenizer, conversation, chosen) == texts
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
        for at, expected in zip(plain, encoded, strict=True):
            mine = documents[at].tokens.tolist()
            assert mine == expected[: len(mine)], f"{name}: {rows[at]['problem']!r}"
            assert mine[-1] == exact.stop_id
