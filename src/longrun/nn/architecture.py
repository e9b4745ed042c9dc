"""The architecture of a decoder, read from a Hugging Face ``config.json``.

Accepts the keys of old files (``rope_theta``, ``rope_scaling``) and of new ones
(``rope_parameters``). A setting that the decoder does not compute is refused by name: nothing is
ever approximated or ignored. This module never reads a file and never imports torch.

Defaults that stand in for missing keys are those of transformers 5: ``rope_theta`` 10,000,
``tie_word_embeddings`` false, ``sliding_window`` 4,096 for Mistral.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, cast

from longrun.errors import InputError

Family = Literal["qwen2", "qwen3", "llama", "mistral"]
FAMILIES: tuple[Family, ...] = ("qwen2", "qwen3", "llama", "mistral")
ROPE_TYPES = ("default", "llama3", "yarn")


@dataclass(frozen=True, kw_only=True, slots=True)
class Llama3RopeScaling:
    """Stretch the slow rotations only. Source: Llama 3.1, ``rope_type: llama3``."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int
    """``original_max_position_embeddings``: positions of the pre-training, in tokens."""


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


RopeScaling = Llama3RopeScaling | YarnRopeScaling


@dataclass(frozen=True, kw_only=True, slots=True)
class Arch:
    """Everything that decides the shapes and the mathematics of a decoder."""

    family: Family
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    """Divides ``num_heads``: grouped-query attention."""
    head_dim: int
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    """None: rotations are not stretched."""
    qkv_bias: bool
    output_bias: bool = False
    """Bias of ``o_proj``: Llama and Qwen3 with ``attention_bias`` have it beside the others."""
    qk_norm: bool
    """RMSNorm over every head of the queries and keys (Qwen3)."""
    tied: bool
    """The output matrix is the embedding matrix."""
    max_positions: int
    """``max_position_embeddings``: the longest document that the model was made for, in tokens."""

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], where: str) -> "Arch":
        """Read a ``config.json`` mapping; ``where`` is its path, for the error messages.

        Raises ``InputError`` naming the field, its value and what is supported.
        """
        fields = _Fields(config, where)
        family = fields.one_of("model_type", FAMILIES)
        fields.one_of("hidden_act", ("silu",), default="silu")
        fields.refuse_true("mlp_bias")
        fields.refuse_true("is_encoder_decoder")
        num_heads = fields.count("num_attention_heads")
        num_layers = fields.count("num_hidden_layers")
        max_positions = fields.count("max_position_embeddings")
        _refuse_sliding_window(fields, family, num_layers, max_positions)
        attention_bias = family in ("llama", "qwen3") and fields.flag("attention_bias")
        rope = _rope_settings(fields)
        return cls(
            family=cast(Family, family),
            vocab_size=fields.count("vocab_size"),
            hidden_size=fields.count("hidden_size"),
            intermediate_size=fields.count("intermediate_size"),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=_num_kv_heads(fields, family, num_heads),
            head_dim=_head_dim(fields, family, num_heads),
            norm_eps=fields.number("rms_norm_eps"),
            rope_theta=rope.number("rope_theta", default=10_000.0),
            rope_scaling=_rope_scaling(rope),
            qkv_bias=family == "qwen2" or attention_bias,
            output_bias=attention_bias,
            qk_norm=family == "qwen3",
            tied=fields.flag("tie_word_embeddings"),
            max_positions=max_positions,
        )


class _Fields:
    """Typed reads from a parsed JSON object, with errors that name the field."""

    def __init__(self, values: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self.values = values
        self.where = where
        self.prefix = prefix

    def fail(self, field: str, problem: str) -> NoReturn:
        raise InputError.at(self.where, None, f"{self.prefix}{field}: {problem}")

    def has(self, field: str) -> bool:
        return self.values.get(field) is not None

    def number(self, field: str, default: float | None = None) -> float:
        value = self.values.get(field)
        value = default if value is None else value
        if value is None:
            self.fail(field, "is missing; a number above 0 is needed")
        valid = isinstance(value, int | float) and not isinstance(value, bool)
        if not (valid and math.isfinite(value) and value > 0):
            self.fail(field, f"is {value!r}; a number above 0 is needed")
        return float(value)

    def count(self, field: str) -> int:
        value = self.number(field)
        if value != int(value):
            self.fail(field, f"is {value!r}; a whole number is needed")
        return int(value)

    def flag(self, field: str) -> bool:
        value = self.values.get(field)
        if value is not None and not isinstance(value, bool):
            self.fail(field, f"is {value!r}; true or false is needed")
        return bool(value)

    def one_of(self, field: str, supported: tuple[str, ...], default: str | None = None) -> str:
        value = self.values.get(field)
        value = default if value is None else value
        if value not in supported:
            self.fail(field, f"is {value!r}; supported: {', '.join(supported)}")
        return str(value)

    def refuse_true(self, field: str) -> None:
        if self.flag(field):
            self.fail(field, "is true; supported: false")

    def object(self, field: str) -> "_Fields":
        value = self.values.get(field)
        if not isinstance(value, Mapping):
            self.fail(field, f"is {value!r}; an object is needed")
        return _Fields(value, self.where, f"{self.prefix}{field}.")


def _num_kv_heads(fields: _Fields, family: str, num_heads: int) -> int:
    """Return the key-value heads; only Llama's oldest files leave them out (one per head)."""
    if family == "llama" and not fields.has("num_key_value_heads"):
        return num_heads
    num_kv_heads = fields.count("num_key_value_heads")
    if num_heads % num_kv_heads:
        fields.fail(
            "num_key_value_heads",
            f"is {num_kv_heads}; it must divide num_attention_heads ({num_heads})",
        )
    return num_kv_heads


def _head_dim(fields: _Fields, family: str, num_heads: int) -> int:
    """Return the channels of one head; Qwen3 must state them, Qwen2 never does."""
    hidden_size = fields.count("hidden_size")
    stated = fields.has("head_dim") and family != "qwen2"
    if stated or family == "qwen3":
        head_dim = fields.count("head_dim")
    elif hidden_size % num_heads:
        fields.fail(
            "hidden_size", f"is {hidden_size}; a multiple of {num_heads} attention heads is needed"
        )
    else:
        head_dim = hidden_size // num_heads
    if head_dim % 2:
        fields.fail("head_dim", f"is {head_dim}; rotary embeddings need an even number")
    return head_dim


def _refuse_sliding_window(
    fields: _Fields, family: str, num_layers: int, max_positions: int
) -> None:
    """Refuse a window that hides keys; one as long as the model's positions hides none."""
    if family == "llama":
        return
    window: float = math.inf
    if family == "mistral":
        stated = "sliding_window" in fields.values
        if not stated or fields.has("sliding_window"):
            window = fields.number("sliding_window", default=4096)
    elif fields.flag("use_sliding_window") and fields.has("sliding_window"):
        layer_types = fields.values.get("layer_types")
        if layer_types is None:
            windowed = fields.values.get("max_window_layers", 28) < num_layers
        else:
            windowed = "sliding_attention" in layer_types
        window = fields.number("sliding_window") if windowed else math.inf
    if window < max_positions:
        fields.fail(
            "sliding_window",
            f"is {int(window)}, shorter than max_position_embeddings ({max_positions}); "
            "supported: full attention (sliding_window null or not shorter)",
        )


def _rope_settings(fields: _Fields) -> _Fields:
    """Merge both spellings of the rotary settings into one object with ``rope_type``."""
    settings: dict[str, Any] = {}
    prefix = ""
    for field in ("rope_scaling", "rope_parameters"):
        if fields.has(field):
            settings.update(fields.object(field).values)
            prefix = f"{field}."
    alternatives = {
        "rope_theta": fields.values.get("rope_theta"),
        "partial_rotary_factor": fields.values.get("partial_rotary_factor"),
        "rope_type": settings.pop("type", None),
    }
    for field, value in alternatives.items():
        if settings.get(field) is None:
            settings[field] = value
    return _Fields(settings, fields.where, prefix)


def _rope_scaling(rope: _Fields) -> RopeScaling | None:
    rope_type = rope.one_of("rope_type", ROPE_TYPES, default="default")
    if rope.number("partial_rotary_factor", default=1.0) != 1.0:
        rope.fail("partial_rotary_factor", "is not 1; supported: rotation of the whole head")
    nested = [name for name, value in rope.values.items() if isinstance(value, Mapping)]
    if nested:
        rope.fail(nested[0], "differs between layers; supported: one rotation for all layers")
    if rope_type == "default":
        return None
    if rope_type == "yarn":
        return _yarn(rope)
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if low >= high:
        rope.fail("low_freq_factor", f"is {low}; it must be below high_freq_factor ({high})")
    return Llama3RopeScaling(
        factor=rope.number("factor"),
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_positions=rope.count("original_max_position_embeddings"),
    )


def _yarn(rope: _Fields) -> YarnRopeScaling:
    for field in ("mscale", "mscale_all_dim"):
        if rope.has(field):
            rope.fail(field, "is set; supported: attention_factor, or neither")
    if rope.values.get("truncate") is False:
        rope.fail("truncate", "is false; supported: true")
    factor = rope.number("factor")
    inferred = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    return YarnRopeScaling(
        factor=factor,
        original_max_positions=rope.count("original_max_position_embeddings"),
        beta_fast=rope.number("beta_fast", default=32.0),
        beta_slow=rope.number("beta_slow", default=1.0),
        attention_factor=rope.number("attention_factor", default=inferred),
    )
