"""Records of the size and columns of OpenMathReasoning, made of given or generated solutions.

The text is that of the records given: their problems and the paragraphs of their solutions, put
together anew with permuted digits until rows have the published mean sizes. Each paragraph comes
several times, so caches see less novelty than in the real set; ``unseen`` text has none at all.
"""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

BYTES_PER_ROW = {"cot": 22_380, "tir": 20_801, "genselect": 12_342}
"""Published bytes over published rows of each split."""
ROWS_PER_SPLIT = {"cot": 3_201_061, "tir": 1_718_466, "genselect": 565_620}
_AROUND_PROSE = re.compile(r"<tool_call>.*?</tool_call>|```(?:output|system).*?```|<<.*?>>", re.S)
"""Code, its output, notices, and the calculator marks of GSM8K."""
_SPREAD = 0.75
"""Standard deviation of the logarithm of row sizes: an assumption."""


class Paragraphs:
    """Text to build rows from."""

    def __init__(self, rows: list[dict[str, str]]) -> None:
        self.problems = [row["problem"].encode() for row in rows]
        self.calls: list[bytes] = []
        self.prose: list[bytes] = []
        for row in rows:
            text = row.get("generated_solution") or row["solution"]
            body = text.removeprefix("<think>\n").partition("</think>")[0]
            if "<tool_call>" in body:
                self.calls.append(body.encode())
            prose = _AROUND_PROSE.sub("\n\n", body)
            self.prose += [f"{part}\n\n".encode() for part in prose.split("\n\n") if part.strip()]
        self.prose = self.prose or self.calls
        self.calls = self.calls or self.prose


def read_rows(paths: list[Path]) -> list[dict[str, str]]:
    """Read the records of JSONL files."""
    return [json.loads(line) for path in paths for line in path.read_bytes().splitlines() if line]


def generated_rows() -> list[dict[str, str]]:
    """Return records of the demo's generator, for machines without a corpus."""
    import tempfile

    from longrun.config.stages import SynthesizeConfig
    from longrun.data.synthetic import synthesize

    with tempfile.TemporaryDirectory() as folder:
        config = SynthesizeConfig(output_dir=Path(folder), num_cot=800, num_tir=800)
        synthesize.run(config)
        return read_rows(sorted((Path(folder) / "train").glob("[ct]*.jsonl")))


def write_corpus(path: Path, rows: list[dict[str, str]], num_bytes: int, seed: int) -> int:
    """Write at least ``num_bytes`` of records to ``path``; return how many records."""
    count, written = 0, 0
    with open(path, "wb") as file:
        for record in make_records(Paragraphs(rows), seed):
            written += file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            count += 1
            if written >= num_bytes:
                return count
    return count


def make_records(text: Paragraphs, seed: int) -> Iterator[dict[str, str]]:
    """Yield records without end."""
    rng = random.Random(seed)
    modes, shares = list(ROWS_PER_SPLIT), list(ROWS_PER_SPLIT.values())
    while True:
        mode = rng.choices(modes, shares)[0]
        size = int(rng.lognormvariate(np.log(BYTES_PER_ROW[mode]) - _SPREAD**2 / 2, _SPREAD))
        answer = str(rng.randrange(1000))
        body = "".join(_pieces(text, mode, size, rng))
        if mode == "genselect":
            problem, solution = body, f"Solution {answer} is the best.\n\nJudgment: {answer[0]}"
        else:
            problem = _permuted(rng.choice(text.problems), rng)
            solution = f"<think>\n{body}</think>\nThe answer is \\boxed{{{answer}}}."
        yield {
            "expected_answer": answer,
            "problem_type": "has_answer_extracted",
            "problem_source": rng.choice(["aops_c4_high_school_math", "aops_c6_high_school"]),
            "generation_model": "QwQ-32B",
            "pass_rate_72b_tir": rng.choice(["n/a", "0.28125", "0.90625"]),
            "problem": problem,
            "generated_solution": solution,
            "inference_mode": mode,
            "used_in_kaggle": True,
        }


def _pieces(text: Paragraphs, mode: str, size: int, rng: random.Random) -> Iterator[str]:
    left = size
    calls = rng.randint(1, 3) if mode == "tir" else 0
    while left > 0:
        piece = _permuted(rng.choice(text.calls if calls > 0 else text.prose), rng)
        calls -= 1
        left -= len(piece)
        yield piece


def _permuted(text: bytes, rng: random.Random) -> str:
    digits = bytes(rng.sample(b"0123456789", 10))
    return text.translate(bytes.maketrans(b"0123456789", digits)).decode()
