"""Stage ``group_candidates``: from sampled solutions to selection problems (GenSelect).

For every problem, ``repeats`` groups of at most ``group_size`` candidates are drawn and put into a
prompt; ``generate`` in mode ``genselect`` answers them, and ``evaluate`` lets the answers of one
problem vote. Source: Moshkov et al. 2025 (arXiv:2504.16891), section 4: 16 of 64 solutions in a
prompt, repeated 64 times, then a majority vote.

A candidate is what stands behind ``</think>`` and states an answer; of a long one the end is kept,
cut at a paragraph. Solutions that state none are no candidates. A problem whose candidates all
say the same is asked once, because every choice gives the same answer, and a problem without any
candidate is kept with an empty list, so that it counts as one that selection cannot solve.
"""

import hashlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longrun.config.evaluation import GroupCandidatesConfig
from longrun.config.plain_yaml import parse_yaml_value
from longrun.config.reading import read_text
from longrun.config.values import is_prompt_file
from longrun.errors import InputError
from longrun.evaluation.generation.chunks import Key, find_predictions, read_joined
from longrun.evaluation.grading.answers import extract_boxed
from longrun.evaluation.scores.summarise import answer_class
from longrun.formats.predictions import Prediction, write_rows
from longrun.formats.stages.ledger import Ledger
from longrun.formats.stages.manifest import Manifest
from longrun.formats.stages.stage import open_stage
from longrun.formats.text.spans import THINK_END

log = logging.getLogger(__name__)
_PROMPTS = Path(__file__).parent / "prompts"
_USER_FIELDS = ("problem", "solutions", "num_solutions", "max_index")
_SOLUTION_FIELDS = ("index", "solution")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One solution to choose from."""

    summary: str
    answer: str


@dataclass(frozen=True, slots=True)
class SelectionPrompt:
    """``str.format`` texts: one candidate, and the problem around all of them."""

    solution: str
    user: str

    def fill(self, problem: str, candidates: Sequence[Candidate]) -> str:
        """Return the whole selection problem."""
        solutions = "\n".join(
            self.solution.format(index=index, solution=candidate.summary)
            for index, candidate in enumerate(candidates)
        )
        return self.user.format(
            problem=problem,
            solutions=solutions,
            num_solutions=len(candidates),
            max_index=len(candidates) - 1,
        )


def run(config: GroupCandidatesConfig) -> Manifest:
    """Write ``LABEL/BENCHMARK.jsonl``, a benchmark of selection problems for every model.

    Raises:
        InputError: the predictions or the prompt cannot be used as they are.
    """
    prompt = load_selection_prompt(config.prompt)
    files = find_predictions(config.predictions)
    with open_stage("group_candidates", config) as stage:
        if stage.finished is not None:
            return stage.finished
        ledger, num_rows = Ledger(), 0
        for key, paths in files.items():
            rows = read_joined(paths)
            ledger.take(len(rows))
            problems = _select(config, prompt, key, rows, ledger)
            num_rows += len(problems)
            path = stage.folder / key[0] / f"{key[1]}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_rows(path, problems)
        return stage.finish(counts={"selections": num_rows}, ledger=ledger)


def load_selection_prompt(name: str) -> SelectionPrompt:
    """Read a selection prompt: a built-in name or a YAML file with ``solution`` and ``user``.

    Raises:
        ConfigError: the file is not YAML.
        InputError: there is none, or it is not two texts with the placeholders that exist.
    """
    path = Path(name) if is_prompt_file(name) else _PROMPTS / f"{name}.yaml"
    if not path.is_file():
        raise InputError(
            f"group_candidates.prompt {name}: there is no such prompt; known: selection"
        )
    content = parse_yaml_value(read_text(path), str(path))
    if not isinstance(content, dict) or content.keys() != {"solution", "user"}:
        raise InputError.at(path, None, "a selection prompt has two texts: solution and user")
    prompt = SelectionPrompt(str(content["solution"]), str(content["user"]))
    try:
        prompt.fill("", [Candidate("", "")])
    except (KeyError, IndexError, ValueError) as error:
        raise InputError.at(
            path,
            None,
            f"placeholder {error}: solution may name {{{'}, {'.join(_SOLUTION_FIELDS)}}} and user"
            f" {{{'}, {'.join(_USER_FIELDS)}}}",
        ) from None
    return prompt


def find_candidate(row: Prediction, most_chars: int) -> Candidate | None:
    """Return the summary of a solution and its answer; None when it states no answer."""
    _, mark, after = row.generation.rpartition(THINK_END)
    summary = after.strip()
    answer = extract_boxed(summary)
    if (not mark and row.finish != "stop") or answer is None:
        return None
    return Candidate(cut_summary(summary, most_chars), answer)


def cut_summary(text: str, most_chars: int) -> str:
    r"""Return the end of ``text``, from the first paragraph that begins within ``most_chars``.

    >>> cut_summary("one\n\ntwo\n\nthree", 11)
    'two\n\nthree'
    """
    if len(text) <= most_chars:
        return text
    end = text[-most_chars:]
    _, blank, paragraphs = end.partition("\n\n")
    return paragraphs.lstrip() if blank and paragraphs.strip() else end


def _select(
    config: GroupCandidatesConfig,
    prompt: SelectionPrompt,
    key: Key,
    rows: Sequence[Prediction],
    ledger: Ledger,
) -> list[dict[str, Any]]:
    selections: list[dict[str, Any]] = []
    for _, group in itertools.groupby(rows, lambda row: row.id):
        samples = list(group)
        found = [find_candidate(row, config.summary_chars) for row in samples]
        candidates = [candidate for candidate in found if candidate is not None]
        ledger.keep(len(candidates))
        if len(samples) > len(candidates):
            ledger.drop("states no answer", len(samples) - len(candidates))
        draws = _draw(config, key, samples[0].id, candidates)
        selections += [
            _selection(prompt, samples[0], repeat, drawn) for repeat, drawn in enumerate(draws)
        ]
    return selections


def _draw(
    config: GroupCandidatesConfig, key: Key, problem: str, candidates: Sequence[Candidate]
) -> Iterator[list[Candidate]]:
    """Yield groups in random order of the candidates; all of them where there are few."""
    identity = f"{config.seed} {key[0]} {key[1]} {problem}".encode()
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(identity).digest()[:16]))
    agreed = len({answer_class(candidate.answer) for candidate in candidates}) < 2
    for _ in range(1 if agreed else config.repeats):
        size = min(config.group_size, len(candidates))
        yield [candidates[index] for index in rng.permutation(len(candidates))[:size]]


def _selection(
    prompt: SelectionPrompt, row: Prediction, repeat: int, drawn: Sequence[Candidate]
) -> dict[str, Any]:
    return {
        "id": f"{row.id}/{repeat}",
        "group": row.id,
        "problem": prompt.fill(row.problem, drawn),
        "expected_answer": row.expected_answer,
        "source": row.source,
        "mode": "genselect",
        "candidates": [candidate.answer for candidate in drawn],
    }
