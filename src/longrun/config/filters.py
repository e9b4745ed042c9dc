"""The record filters a recipe can name; what they do is in ``longrun.data.records.filters``.

A filter is a mapping with one key, its name: ``- pass_rate: {max: 0.3}``.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from longrun.config.expressions import compile_expression
from longrun.config.settings import Settings, source

NonNegative = Annotated[float, Field(ge=0.0)]


class PassRate(Settings):
    """Bounds on ``pass_rate_72b_tir``; records with ``n/a`` are dropped."""

    min: NonNegative = 0.0
    max: NonNegative = 1.0


class TokenBounds(Settings):
    """Bounds on a number of tokens, for the modes named."""

    min: Annotated[int, Field(ge=0)] = 0
    max: Annotated[int, Field(ge=0)] | None = None
    modes: list[str] = ["cot", "tir"]
    """Other modes pass unseen: selections are short by nature."""


class Contamination(Settings):
    """Problems that share text with a benchmark."""

    benchmarks: Annotated[list[Path], Field(min_length=1)] = source()
    """JSONL files with a column ``problem``."""
    ngram: Annotated[int, Field(ge=1)] = 13
    """Words in a row that must agree; a shorter benchmark problem must occur whole."""


def _check_expression(text: str) -> str:
    compile_expression(text)
    return text


class Filter(Settings):
    """One named predicate; exactly one field is set."""

    problem_source: list[str] | None = None
    """Keep records whose ``problem_source`` is listed."""
    problem_type: list[str] | None = None
    """Keep records whose ``problem_type`` is listed."""
    inference_mode: list[str] | None = None
    """Keep records whose ``inference_mode`` is listed."""
    pass_rate: PassRate | None = None
    prompt_tokens: TokenBounds | None = None
    """Bounds on the tokens of the prompt, template included."""
    response_tokens: TokenBounds | None = None
    """Bounds on the tokens of the response, the stop token not counted."""
    boxed_answer: bool | None = None
    """``true``: keep CoT and TIR records whose solution ends with a boxed answer."""
    expected_answer: Literal[True] | None = None
    """``true``: keep CoT and TIR records whose last boxed answer is ``expected_answer``, spaces
    and ``$`` aside."""
    duplicates: Literal["problem", "record"] | None = None
    """Keep the first record of each problem, or of each problem with the same solution."""
    contamination: Contamination | None = None
    """Drop records whose problem shares text with a benchmark."""
    where: Annotated[str, AfterValidator(_check_expression)] | None = None
    """Keep records for which this expression over the columns is true."""

    @model_validator(mode="before")
    @classmethod
    def _exactly_one(cls, values: Any) -> Any:
        if not isinstance(values, dict) or len(values) != 1:
            raise ValueError("a filter is a mapping with exactly one name, as {pass_rate: ...}")
        return values

    @model_serializer(mode="wrap")
    def _only_the_one(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Dump the one field that is set: what is written is itself a filter."""
        values: dict[str, Any] = dump(self)
        return {self.name: values[self.name]}

    @property
    def name(self) -> str:
        """The one field that is set; it names the reason in the ledger."""
        return next(iter(self.model_fields_set))
