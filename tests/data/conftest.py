"""A small tokenizer of the Qwen2 kind, and records in the columns of OpenMathReasoning."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from longrun.config.stages import PrepareConfig
from longrun.data.documents import prepare
from longrun.formats.text.code_style import CodeStyle

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS = ["the", "sum", "of", "and", "so", "we", "get", "x", "y", "let", "us", "compute", "answer"]


def write_tokenizer(folder: Path, split: str = SPLIT) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    rng = random.Random(0)
    texts = [solution(rng, "cot") + solution(rng, "tir") for _ in range(50)]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(
        [AddedToken(tag, special=False) for tag in ("<tool_call>", "</tool_call>")]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(count))


def solution(rng: random.Random, mode: str) -> str:
    text = f"<think>\n{words(rng, rng.randint(3, 60))}\n"
    if mode == "tir":
        code = CodeStyle.named("tool_call")
        budget = rng.randint(1, 12)
        for used in range(1, rng.randint(1, min(budget, 3)) + 1):
            text += f"<tool_call>\nprint({rng.randint(0, 99)})\n</tool_call>\n"
            text += code.format_output(str(rng.randint(0, 99))) + code.format_notice(budget - used)
            text += f"{words(rng, 5)}\n"
    return f"{text}</think>\n{words(rng, 6)} \\boxed{{{rng.randint(0, 99)}}}."


def record(rng: random.Random, mode: str = "cot", **columns: object) -> dict[str, object]:
    return {
        "problem": f"Find {rng.randint(0, 99)} + {rng.choice(WORDS)}.",
        "generated_solution": solution(rng, mode),
        "inference_mode": mode,
        "problem_source": rng.choice(["aops_c5_contests", "aops_c6_olympiads"]),
        "problem_type": "has_answer_extracted",
        "pass_rate_72b_tir": rng.choice(["n/a", "0.25", "0.9"]),
        **columns,
    }


def records(count: int, seed: int = 0) -> list[dict[str, object]]:
    rng = random.Random(seed)
    return [record(rng, rng.choice(["cot", "tir", "genselect"])) for _ in range(count)]


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Read every output of a stage but what tells the time or the place."""
    left_out = {".lock", "manifest.json", "config.yaml", "started.json"}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in left_out
    }


@pytest.fixture(scope="session")
def samples() -> SimpleNamespace:
    """The functions above: test modules cannot import a conftest."""
    return SimpleNamespace(
        record=record,
        records=records,
        write_jsonl=write_jsonl,
        write_tokenizer=write_tokenizer,
        contents=contents,
    )


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def make_config(tokenizer, tmp_path):
    def make(**settings: object) -> PrepareConfig:
        values = {"tokenizer": tokenizer, "output_dir": tmp_path / "out", "num_workers": 1}
        return PrepareConfig.parse(values | settings, "prepare")

    return make


@pytest.fixture
def prepared(make_config, tmp_path) -> Path:
    """The output of prepare on 300 records with a fifth of the problems held out."""
    data = write_jsonl(tmp_path / "records.jsonl", records(300))
    prepare.run(make_config(data=data, validation_share=0.2))
    return tmp_path / "out"
