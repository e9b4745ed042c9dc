"""The record filters a recipe can name; what they do is in ``longrun.data.filters``.

A filter is a mapping with one key, its name: ``- pass_rate: {max: 0.3}``.
"""

from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from longrun.config.base import Settings

NonNegative = Annotated[float, Field(ge=0.0)]


class PassRate(Settings):
    """Bounds on ``pass_rate_72b_tir``; records with ``n/a`` are dropped."""

    min: NonNegative = 0.0
    max: NonNegative = 1.0


class TokenBounds(Settings):
    """Bounds on the number of tokens of the response, for the modes named."""

    min: Annotated[int, Field(ge=0)] = 0
    max: Annotated[int, Field(ge=0)] | None = None
    modes: list[str] = ["cot", "tir"]
    """Other modes pass unseen: selections are short by nature."""


class Filter(Settings):
    """One named predicate; exactly one field is set."""

    problem_source: list[str] | None = None
    """Keep records whose ``problem_source`` is listed."""
    problem_type: list[str] | None = None
    """Keep records whose ``problem_type`` is listed."""
    inference_mode: list[str] | None = None
    """Keep records whose ``inference_mode`` is listed."""
    pass_rate: PassRate | None = None
    response_tokens: TokenBounds | None = None
    boxed_answer: bool | None = None
    """``true``: keep CoT and TIR records whose solution ends with a boxed answer."""

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
