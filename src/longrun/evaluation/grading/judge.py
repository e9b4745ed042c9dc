"""Ask a language model whether an answer that the grader refused says the same as the expected one.

Off unless ``evaluate.judge`` is set: for benchmarks whose answers no comparison decides. Asked are
answers that reached the symbolic comparison and were not found equal, or not in time; numbers and
choices are never asked about. What the judge says stands in the grade with its name. A judge that
cannot be asked, or says neither, changes no verdict and is counted.

Source of the use: Moshkov et al. 2025 (arXiv:2504.16891) judge HMMT and HLE answers this way.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from longrun.config.evaluation import JudgeSettings
from longrun.errors import ConfigError
from longrun.evaluation.generation.endpoint_client import EndpointClient, EndpointError
from longrun.formats.predictions import Grade

log = logging.getLogger(__name__)
PROMPT = """Two people answered the same mathematics problem. Do their final answers say the same?
Ignore notation, units and order where they do not matter. Rounded values are not exact ones.

Problem:
{problem}

First answer: {expected_answer}
Second answer: {predicted_answer}

End with a line that says "Judgement: yes" or "Judgement: no"."""
_VERDICT = re.compile(r"judge?ment\W+(yes|no)\b", re.IGNORECASE)
_ASKED_ABOUT = ("not equal by math-verify", "cannot be compared", "not decided within")
Question = tuple[str, str, str]
"""Problem, expected answer, given answer."""


class Judge:
    """Asks each question once."""

    def __init__(self, settings: JudgeSettings) -> None:
        """Prepare to ask the server at ``settings.endpoint.url``.

        Raises:
            ConfigError: there is no address or model.
        """
        endpoint = settings.endpoint
        if not endpoint.url or not endpoint.model:
            raise ConfigError("evaluate.judge: endpoint.url and endpoint.model are needed")
        self._settings = settings
        self._client = EndpointClient(endpoint.url, endpoint)
        self._known: dict[Question, str | None] = {}
        self.num_silent = 0
        """Questions to which no usable answer came."""

    def review(self, grades: Sequence[Grade]) -> list[Grade]:
        """Return the grades with the judge's verdict where it was asked and answered."""
        questions = {_question(grade) for grade in grades if _is_open(grade)} - self._known.keys()
        with ThreadPoolExecutor(self._settings.endpoint.concurrency) as threads:
            answers = threads.map(self._ask, sorted(questions))
            self._known.update(zip(sorted(questions), answers, strict=True))
        return [self._revise(grade) if _is_open(grade) else grade for grade in grades]

    def _ask(self, question: Question) -> str | None:
        problem, expected, given = question
        text = PROMPT.format(problem=problem, expected_answer=expected, predicted_answer=given)
        body: dict[str, Any] = {
            "model": self._settings.endpoint.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0.0,
            "max_tokens": self._settings.max_tokens,
        }
        try:
            return str(self._client.ask("chat/completions", body, read_verdict))
        except EndpointError as error:
            self.num_silent += 1
            log.warning("evaluate: no judgement of %r: %s", given[:60], error)
            return None

    def _revise(self, grade: Grade) -> Grade:
        verdict = self._known[_question(grade)]
        if verdict is None:
            return grade
        right = verdict == "yes"
        return msgspec.structs.replace(
            grade,
            correct=right,
            verdict="right" if right else "wrong",
            why=f"judged by {self._settings.endpoint.model} ({grade.why})",
        )


def read_verdict(answer: Mapping[str, Any]) -> str:
    """Return "yes" or "no" of an answer to ``/v1/chat/completions``; ``ValueError`` for neither."""
    said = answer["choices"][0]["message"]["content"]
    found = _VERDICT.findall(said)
    if not found:
        raise ValueError(f"no judgement in {said[-80:]!r}")
    return str(found[-1]).lower()


def _is_open(grade: Grade) -> bool:
    return (
        grade.mode != "genselect"
        and grade.verdict in ("wrong", "timed out")
        and grade.why.startswith(_ASKED_ABOUT)
    )


def _question(grade: Grade) -> Question:
    return grade.problem, grade.expected_answer, grade.predicted_answer or ""
