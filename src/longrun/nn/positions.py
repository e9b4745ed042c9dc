"""Rotary positions as ``config.json`` states them, read as transformers 5 does, written for all.

Old files have ``rope_theta`` and ``rope_scaling``, new ones ``rope_parameters``. What transformers
5 makes of a file that has both:

* ``rope_scaling``, where it is not empty, *replaces* ``rope_parameters``;
* a ``rope_theta`` in the block that counts goes before one at the top level, and that before
  10,000;
* ``original_max_position_embeddings`` at the top level goes before that in the block, and
  ``max_position_embeddings`` stands in for both.

A file whose two blocks say different things is refused: versions of transformers and inference
engines choose differently. Files are written in both spellings, which then agree.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from longrun.nn.fields import Fields

ROPE_FIELDS = (
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "original_max_position_embeddings",
)
"""The fields of ``config.json`` that ``read_rope`` reads and ``rope_fields`` writes."""
_BLOCKS = ("rope_scaling", "rope_parameters")
_DEFAULT_THETA = 10_000.0
_COMMON = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_OF_TYPE = {
    "default": set[str](),
    "llama3": {
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    },
    "yarn": {
        "factor",
        "original_max_position_embeddings",
        "beta_fast",
        "beta_slow",
        "attention_factor",
        "mscale",
        "mscale_all_dim",
        "truncate",
    },
}
_MAY_BE_NULL = {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Llama3RopeScaling:
    """Stretch the slow rotations only. Source: Llama 3.1, ``rope_type: llama3``."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int
    """``original_max_position_embeddings``: positions of the pre-training, in tokens."""

    rope_type: ClassVar[str] = "llama3"


@dataclass(frozen=True, kw_only=True, slots=True)
class YarnRopeScaling:
    """Stretch slow rotations, blend channel by channel, and sharpen the attention.

    Source: YaRN (Peng et al. 2023, arXiv:2309.00071), ``rope_type: yarn``.
    """

    factor: float
    original_max_positions: int
    """``original_max_position_embeddings``: positions of the pre-training, in tokens."""
    beta_fast: float = 32.0
    """Channels with more turns than this over the original positions are left alone."""
    beta_slow: float = 1.0
    """Channels with fewer turns are divided by ``factor``."""
    attention_factor: float
    """What cosines and sines are multiplied with; the paper's ``0.1 ln(factor) + 1``."""

    rope_type: ClassVar[str] = "yarn"

    @classmethod
    def of(cls, factor: float, original_max_positions: int) -> "YarnRopeScaling":
        """Return the stretching by ``factor`` that the paper recommends."""
        return cls(
            factor=factor,
            original_max_positions=original_max_positions,
            attention_factor=_inferred_attention_factor(factor),
        )


RopeScaling = Llama3RopeScaling | YarnRopeScaling


@dataclass(frozen=True, kw_only=True, slots=True)
class Rope:
    """How far a position turns the channels of a head."""

    theta: float
    scaling: RopeScaling | None
    """None: rotations are not stretched."""


def read_rope(fields: Fields) -> Rope:
    """Read the rotation of a ``config.json``.

    Raises:
        InputError: naming the field that is missing, unknown, contradictory or not supported.
    """
    present = [name for name in _BLOCKS if fields.has(name) and fields.object(name).values]
    if not present:
        return _read_block(fields, Fields({}, fields.where))
    readings = [_read_block(fields, fields.object(name)) for name in present]
    if any(reading != readings[0] for reading in readings):
        fields.fail(
            "rope_scaling",
            f"and rope_parameters say different things ({_shown(fields, 'rope_scaling')} and"
            f" {_shown(fields, 'rope_parameters')}, rope_theta {fields.values.get('rope_theta')});"
            " keep the block that is meant, with its rope_theta",
        )
    return readings[0]


def rope_fields(rope: Rope) -> dict[str, Any]:
    """Return the fields that say ``rope`` in both spellings.

    >>> fields = rope_fields(Rope(theta=1e6, scaling=None))
    >>> fields["rope_theta"], fields["rope_scaling"]
    (1000000.0, None)
    >>> fields["rope_parameters"]
    {'rope_type': 'default', 'rope_theta': 1000000.0}
    """
    scaling = rope.scaling
    block: dict[str, Any] = {"rope_type": "default"}
    if scaling is not None:
        block = {
            "rope_type": scaling.rope_type,
            "factor": scaling.factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        }
    if isinstance(scaling, Llama3RopeScaling):
        block["low_freq_factor"] = scaling.low_freq_factor
        block["high_freq_factor"] = scaling.high_freq_factor
    if isinstance(scaling, YarnRopeScaling):
        block["beta_fast"], block["beta_slow"] = scaling.beta_fast, scaling.beta_slow
        block["attention_factor"] = scaling.attention_factor
    return {
        "rope_theta": rope.theta,
        "rope_scaling": None if scaling is None else block,
        "rope_parameters": {**block, "rope_theta": rope.theta},
    }


def _inferred_attention_factor(factor: float) -> float:
    """Return the attention factor that YaRN has unless it is stated: section 3.4 of its paper."""
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def _read_block(fields: Fields, block: Fields) -> Rope:
    """Read one of the two blocks, filled up from the top level as transformers 5 does it."""
    nested = [name for name, value in block.values.items() if isinstance(value, Mapping)]
    if nested:
        block.fail(nested[0], "differs between layers; supported: one rotation for all layers")
    rope_type = _rope_type(block)
    for name, value in block.values.items():
        if name not in _COMMON | _OF_TYPE[rope_type]:
            block.fail(name, f"is not a setting of rope_type {rope_type!r}; remove it")
        if value is None and name not in _MAY_BE_NULL:
            block.fail(name, "is null; remove it or give its value")
    for holder in (fields, block):
        share = holder.values.get("partial_rotary_factor", 1)
        if isinstance(share, bool) or share != 1:
            holder.fail("partial_rotary_factor", "is not 1; supported: rotation of the whole head")
    if "rope_theta" in fields.values and not fields.has("rope_theta"):
        fields.fail("rope_theta", "is null; remove it or give its value")
    outer = fields.number("rope_theta", default=_DEFAULT_THETA)
    theta = block.number("rope_theta", default=outer)
    if rope_type == "yarn" and theta <= 1:
        block.fail("rope_theta", f"is {theta}; yarn needs a number above 1")
    return Rope(theta=theta, scaling=_scaling(fields, block, rope_type))


def _rope_type(block: Fields) -> str:
    """Return the type of the rotation, whose older name is ``type``."""
    names = [name for name in ("rope_type", "type") if name in block.values]
    types = {block.one_of(name, tuple(_OF_TYPE)) for name in names}
    if len(types) > 1:
        block.fail("type", "and rope_type differ; remove one of them")
    return types.pop() if types else "default"


def _scaling(fields: Fields, block: Fields, rope_type: str) -> RopeScaling | None:
    if rope_type == "default":
        return None
    original = _original_max_positions(fields, block)
    if rope_type == "yarn":
        return _yarn(block, original)
    low, high = block.number("low_freq_factor"), block.number("high_freq_factor")
    if low >= high:
        block.fail("low_freq_factor", f"is {low}; it must be below high_freq_factor ({high})")
    return Llama3RopeScaling(
        factor=block.number("factor"),
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_positions=original,
    )


def _original_max_positions(fields: Fields, block: Fields) -> int:
    """Return the positions before stretching; the top level goes before the block."""
    name = "original_max_position_embeddings"
    for holder in (fields, block):
        if name in holder.values:
            return holder.count(name)
    return fields.count("max_position_embeddings")


def _yarn(block: Fields, original: int) -> YarnRopeScaling:
    for field in ("mscale", "mscale_all_dim"):
        if block.has(field):
            block.fail(field, "is set; supported: attention_factor, or neither")
    if block.values.get("truncate", True) is not True:
        block.fail("truncate", f"is {block.values['truncate']!r}; supported: true")
    factor = block.number("factor")
    return YarnRopeScaling(
        factor=factor,
        original_max_positions=original,
        beta_fast=block.number("beta_fast", default=32.0),
        beta_slow=block.number("beta_slow", default=1.0),
        attention_factor=block.number(
            "attention_factor", default=_inferred_attention_factor(factor)
        ),
    )


def _shown(fields: Fields, name: str) -> str:
    block = fields.values[name]
    return f"rope_type {block.get('rope_type', block.get('type', 'default'))!r}"
