"""A miniature run: the folders that finished stages leave, as far as a report reads them."""

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longrun.formats.documents import LINEAGE, ShardContent, write_index
from longrun.formats.plans import PackPlan, epoch_name
from longrun.formats.stages.ledger import Ledger
from longrun.formats.stages.manifest import Manifest

CONFIG = {
    "model_type": "qwen2",
    "num_hidden_layers": 3,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
    "tie_word_embeddings": True,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
}
HOSTILE = "</div></details><script>alert(1)</script><img src=x onerror='alert(2)'>&amp;\"'"


@dataclass
class MiniatureRun:
    """Writes one stage folder after another."""

    root: Path
    steps: int = 40
    problems: int = 10
    fingerprints: dict[str, str] = field(default_factory=dict)

    def stage(
        self,
        name: str,
        verb: str,
        inputs: Mapping[str, Sequence[Path]],
        counts: Mapping[str, float],
        seconds: float = 2.5,
        settings: Mapping[str, Any] | None = None,
        ledger: Ledger | None = None,
    ) -> Path:
        """Finish the stage ``name``."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        fingerprint = f"{name}-0123456789abcdef"
        self.fingerprints[str(folder)] = fingerprint
        Manifest(
            verb=verb,
            fingerprint=fingerprint,
            settings=dict(settings or {"seed": 0}),
            inputs={
                key: {str(path): self.fingerprints.get(str(path), "f" * 32) for path in paths}
                for key, paths in inputs.items()
            },
            revision=1,
            version="0.1.0",
            outputs={"a.bin": 1234},
            counts=dict(counts),
            ledger=ledger,
            wall_seconds=seconds,
        ).write(folder)
        return folder

    def prepare(self, name: str, inputs: Mapping[str, Sequence[Path]], records: int) -> Path:
        """Finish a ``prepare`` of three modes."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        edges = [0, *(round(2 ** (step / 2)) for step in range(10, 19))]
        shapes = {
            "cot": [0, 0, 0, 2, 6, 2, 0, 0, 0],
            "tir": [0, 0, 0, 0, 0, 2, 6, 2, 1],
            "genselect": [0, 0, 0, 0, 3, 7, 1, 0, 0],
        }
        stats = {
            "examples": {"pass_rate": str(self.root / "problems" / "train.jsonl:17")},
            "lengths": {
                mode: {"edges": edges, "counts": [count * records // 31 for count in counts]}
                for mode, counts in shapes.items()
            },
            "tokens_by_span": {
                "prompt": 61 * records,
                "thinking": 38 * records,
                "code": 12 * records,
                "tool_output": 9 * records,
                "notice": 8 * records,
                "answer": 14 * records,
                "stop": records,
            },
        }
        (folder / "stats.json").write_text(json.dumps(stats))
        ledger = Ledger()
        ledger.take(records)
        ledger.drop("pass_rate", records // 5)
        ledger.drop("response too long", records // 50, tokens=40 * records)
        kept = records - records // 5 - records // 50
        ledger.keep(kept, tokens=143 * kept)
        counts = {"documents": kept, "tokens": 143 * kept}
        return self.stage(name, "prepare", inputs, counts, 11.2, ledger=ledger)

    def pack(self, name: str, documents: Path, packs: int) -> Path:
        """Finish a ``pack`` of two epochs."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        info = {
            "documents": f"../{documents.name}",
            "pack_size": 1024,
            "num_epochs": 2,
            "num_packs": [packs, packs],
            "fill": [0.9981, 0.9979],
        }
        (folder / "packs.json").write_text(json.dumps(info))
        ledger = Ledger(records_in=9, kept=9, tokens_kept=9 * 143)
        inputs = {"documents": [documents]}
        return self.stage(name, "pack", inputs, {"packs": packs}, 0.4, ledger=ledger)

    def train(self, name: str, packs: Path, model: Path, lr: float, start: float) -> Path:
        """Finish a ``train`` whose loss falls."""
        folder = self.root / name
        (folder / "final").mkdir(parents=True, exist_ok=True)
        (folder / "final" / "config.json").write_text(json.dumps(CONFIG))
        noise = random.Random(name)
        lines: list[dict[str, Any]] = []
        for step in range(1, self.steps + 1):
            done = step / self.steps
            loss = start * math.exp(-3.2 * done) + 0.08 + noise.gauss(0, 0.03) * (1.2 - done)
            lines.append(
                {
                    "step": step,
                    "loss": max(0.03, loss),
                    "grad_norm": 0.4 + 2 * math.exp(-5 * done) + abs(noise.gauss(0, 0.1)),
                    "lr": lr * min(10 * done, 0.5 + 0.5 * math.cos(math.pi * done)),
                    "tokens": 8192,
                    "supervised_tokens": 2900,
                    "packs": 8,
                    "tokens_per_second": 9000 + noise.gauss(0, 400),
                    "seconds": 0.9,
                    "epoch": 2.5 * done,
                }
            )
            if step % max(1, self.steps // 6) == 0:
                modes = {"cot": loss + 0.01, "tir": loss + 0.05, "genselect": None}
                lines.append(
                    {
                        "step": step,
                        "validation_loss": loss + 0.03,
                        "validation_loss_by_mode": modes,
                    }
                )
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        settings = {
            "optimizer": {"lr": lr, "name": "adamw", "betas": None},
            "max_steps": self.steps,
        }
        inputs = {"packs": [packs], "model": [model]}
        return self.stage(
            name, "train", inputs, {"epochs": 2.5, "steps": self.steps}, 95.0, settings
        )

    def evaluate(self, predictions: Path, models: Mapping[str, float], name: str) -> Path:
        """Finish an ``evaluate`` of three benchmarks; ``models``: label -> accuracy."""
        folder = self.root / name
        rows = []
        for model, accuracy in models.items():
            for benchmark in ("cot", "tir", "genselect"):
                rows.append(self._grade(folder, model, benchmark, accuracy))
        difference = {
            "model": list(models)[-1],
            "baseline": next(iter(models)),
            "benchmark": "cot",
            "mode": "cot",
            "problems": self.problems,
            "difference": 0.12,
            "standard_error": 0.04,
            "interval": [0.04, 0.2],
        }
        differences = [difference] if len(models) > 1 else []
        summary = {"rows": rows, "differences": differences}
        (folder / "summary.json").write_text(json.dumps(summary))
        counts = {"rows": len(rows), "solutions": len(rows) * self.problems}
        return self.stage(name, "evaluate", {"predictions": [predictions]}, counts, 3.0)

    def _grade(
        self, folder: Path, model: str, benchmark: str, accuracy: float
    ) -> dict[str, object]:
        chosen = random.Random(f"{model} {benchmark}")
        target = folder / "grades" / model / f"{benchmark}.jsonl"
        target.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            _solution(benchmark, index, chosen.random() < accuracy)
            for index in range(self.problems)
        ]
        target.write_text("".join(json.dumps(row) + "\n" for row in rows))
        right = sum(bool(row["correct"]) for row in rows) / self.problems
        error = math.sqrt(right * (1 - right) / self.problems)
        return {
            "model": model,
            "benchmark": benchmark,
            "mode": benchmark,
            "problems": self.problems,
            "samples": 1,
            "pass_at_1": right,
            "standard_error": error,
            "interval": [max(0.0, right - 2 * error), min(1.0, right + 2 * error)],
            "majority": right,
            "no_answer_rate": 0.02,
            "unfinished_rate": 0.01,
            "timed_out_rate": 0.0,
            "mean_tokens": 88.0,
            "code_calls": 1.4 if benchmark == "tir" else 0.0,
            "code_errors": 0.02 if benchmark == "tir" else 0.0,
            "chance": 0.42 if benchmark == "genselect" else None,
        }


def _solution(benchmark: str, index: int, correct: bool) -> dict[str, object]:
    found = 14 + index if correct else 15 + index
    if benchmark == "tir":
        pieces = [
            ("THINKING", "<think>\nThe product is easier to compute than to guess.\n"),
            ("CODE", f"<tool_call>\na = {index}\nb = 7\nprint((a + b) * 2)\n</tool_call>\n"),
            ("TOOL_OUTPUT", f"```output\n{found}\n```\n"),
            ("NOTICE", "```system\nRemaining code executions: 2.\n```\n"),
            ("THINKING", f"So it is {found}.\n</think>\n"),
            ("ANSWER", f"The answer is \\boxed{{{found}}}."),
        ]
    else:
        pieces = [
            ("THINKING", f"<think>\na = 7: 07\nb = {index}: {7 + index:02d}\n</think>\n"),
            ("ANSWER", f"The answer is \\boxed{{{found}}}."),
        ]
    if index == 1:
        pieces.append(("ANSWER", HOSTILE))
    return {
        "id": f"{benchmark}-{index}",
        "sample": 0,
        "mode": benchmark,
        "source": benchmark,
        "problem": f"Let a = 7 and b = {index}. What is a + b + 7?" + HOSTILE * (index == 1),
        "prompt_tokens": 40,
        "expected_answer": str(14 + index),
        "candidates": ["12", str(14 + index)] if benchmark == "genselect" else [],
        "generation": "".join(text for _, text in pieces),
        "pieces": pieces,
        "finish": "stop",
        "tokens": 30 + index,
        "code_calls": 1 if benchmark == "tir" else 0,
        "code_errors": 0,
        "predicted_answer": str(found),
        "correct": correct,
        "verdict": "right" if correct else "wrong",
        "why": f"{found} {'equals' if correct else 'is not'} {14 + index}",
    }


def write_run(root: Path, *, steps: int = 40, problems: int = 10, records: int = 620) -> list[Path]:
    """Write two rounds of training and their evaluation; return the folders in order."""
    run = MiniatureRun(root, steps, problems)
    raw = run.stage("problems", "synthesize", {}, {"records": records, "held_out": 100}, 1.2)
    tokenizer = run.stage(
        "tokenizer", "train_tokenizer", {"data": [raw / "train.jsonl"]}, {"tokens": 1024}, 3.1
    )
    base = run.stage("base", "init_model", {"tokenizer": [tokenizer]}, {"parameters": 638592}, 0.2)
    reads = {"data": [raw / "train.jsonl"], "tokenizer": [tokenizer]}
    documents = run.prepare("documents", reads, records)
    packs = run.pack("packs", documents, records // 8)
    round_1 = run.train("round-1", packs, base, 3e-3, 5.0)
    hard = run.prepare("hard-documents", reads, records // 4)
    hard_packs = run.pack("hard-packs", hard, records // 32)
    mean_1 = run.stage("mean-1", "average", {"checkpoints": [round_1]}, {"members": 4}, 1.0)
    round_2 = run.train("round-2", hard_packs, mean_1 / "model", 1e-3, 0.4)
    models = [base, mean_1 / "model", round_2 / "final"]
    tests = [raw / "benchmark.jsonl"]
    asked = {"models": models, "benchmarks": tests, "conversation": [documents]}
    predictions = run.stage("predictions", "generate", asked, {"solutions": 9 * problems}, 61.0)
    scores = {"base": 0.04, "round-1": 0.62, "round-2": 0.81}
    graded = run.evaluate(predictions, scores, "scores")
    return [
        *(raw, tokenizer, base, documents, packs, round_1, mean_1),
        *(hard, hard_packs, round_2, predictions, graded),
    ]


@pytest.fixture
def miniature(tmp_path: Path) -> list[Path]:
    """Folders of a whole miniature run, in order."""
    return write_run(tmp_path / "run")


@pytest.fixture
def writer(tmp_path: Path) -> Callable[..., MiniatureRun]:
    """Make a writer of single stages."""
    return lambda **sizes: MiniatureRun(tmp_path / "run", **sizes)


@pytest.fixture(scope="session")
def run_writer() -> Callable[[Path], list[Path]]:
    """Write a whole miniature run into a folder."""
    return write_run


@pytest.fixture
def packed() -> Callable[[Path, Path, list[int]], None]:
    """Give a prepared folder documents of these lengths and pack each of them alone."""

    def write(prepared: Path, packs: Path, lengths: list[int]) -> None:
        split = prepared / "train"
        split.mkdir()
        count = len(lengths)
        sources = {"paths": ["a.jsonl"], "modes": ["cot"], "first_lines": {"00000": 0}}
        (prepared / "sources.json").write_text(json.dumps(sources))
        (split / "00000.bin").write_bytes(np.zeros(sum(lengths), "<i4").tobytes())
        content = ShardContent(
            span_lengths=np.asarray(lengths, np.int32),
            span_kinds=np.full(count, 5, np.int8),
            first_spans=np.arange(count + 1),
            lineage=np.zeros(count, LINEAGE),
        )
        write_index(split, "00000", content)
        PackPlan(np.arange(count), np.arange(count + 1)).save(packs, epoch_name(0))

    return write


@pytest.fixture
def hostile() -> str:
    """Text in a problem and a solution that would run if it were not escaped."""
    return HOSTILE
