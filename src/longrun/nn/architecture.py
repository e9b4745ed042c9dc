"""The architecture of a decoder, read from a Hugging Face ``config.json``.

Accepts the keys of old files and of new ones. Every field is used, held to the value that is
computed, or known to be harmless (``longrun.nn.known_fields``); anything else is refused by name:
nothing is ever approximated or ignored. This module never reads a file and never imports torch.

Where transformers 5 has a default for a missing key that decides the computation, it is taken
(``tie_word_embeddings`` false, ``rope_theta`` 10,000, ``sliding_window`` 4,096 for Mistral) or the
key is asked for (sizes, ``rms_norm_eps``).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from longrun.nn.fields import Fields
from longrun.nn.known_fields import check_fields
from longrun.nn.positions import Rope, RopeScaling, read_rope

Family = Literal["qwen2", "qwen3", "llama", "mistral"]
FAMILIES: tuple[Family, ...] = ("qwen2", "qwen3", "llama", "mistral")
ARCHITECTURES: Mapping[Family, str] = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
}
"""What transformers and inference engines call the decoder of a family."""
FLOAT_TYPES = ("float32", "bfloat16", "float16", "float64")
"""Types of weights, as torch names them without ``torch.``."""


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
        fields = Fields(config, where)
        family = cast(Family, fields.one_of("model_type", FAMILIES))
        check_fields(fields)
        fields.one_of("hidden_act", ("silu",), default="silu")
        _check_class(fields, family)
        read_dtype(fields)
        num_heads = fields.count("num_attention_heads")
        num_layers = fields.count("num_hidden_layers")
        max_positions = fields.count("max_position_embeddings")
        _refuse_sliding_window(fields, family, num_layers, max_positions)
        attention_bias = _attention_bias(fields, family)
        rope = read_rope(fields)
        return cls(
            family=family,
            vocab_size=fields.count("vocab_size"),
            hidden_size=fields.count("hidden_size"),
            intermediate_size=fields.count("intermediate_size"),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=_num_kv_heads(fields, family, num_heads),
            head_dim=_head_dim(fields, family, num_heads),
            norm_eps=fields.number("rms_norm_eps"),
            rope_theta=rope.theta,
            rope_scaling=rope.scaling,
            qkv_bias=family == "qwen2" or attention_bias,
            output_bias=attention_bias,
            qk_norm=family == "qwen3",
            tied=fields.flag("tie_word_embeddings"),
            max_positions=max_positions,
        )

    @property
    def rope(self) -> Rope:
        """The rotation alone."""
        return Rope(theta=self.rope_theta, scaling=self.rope_scaling)


def read_dtype(fields: Fields) -> str | None:
    """Return the type that a ``config.json`` states for its weights; None: it states none.

    ``dtype`` goes before its older name ``torch_dtype``, as in transformers 5.
    """
    found = None
    for name in ("torch_dtype", "dtype"):
        if fields.has(name):
            found = fields.one_of(name, FLOAT_TYPES)
    return found


def _check_class(fields: Fields, family: Family) -> None:
    """Check that the file names no other class than the decoder: engines choose by it."""
    named = fields.values.get("architectures")
    if named not in (None, [], [ARCHITECTURES[family]]):
        fields.fail("architectures", f"is {named!r}; supported: [{ARCHITECTURES[family]!r}]")


def _attention_bias(fields: Fields, family: Family) -> bool:
    """Return whether all four projections have a bias; only Llama and Qwen3 have the choice."""
    if family in ("llama", "qwen3"):
        return fields.flag("attention_bias")
    fixed = family == "qwen2"
    if fields.has("attention_bias") and fields.flag("attention_bias") != fixed:
        fields.fail(
            "attention_bias",
            f"is {str(not fixed).lower()}; a {family} model always has it {str(fixed).lower()}:"
            " remove the field",
        )
    return False


def _num_kv_heads(fields: Fields, family: Family, num_heads: int) -> int:
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


def _head_dim(fields: Fields, family: Family, num_heads: int) -> int:
    """Return the channels of one head; Qwen3 must state them."""
    hidden_size = fields.count("hidden_size")
    if hidden_size % num_heads and not (family in ("qwen3", "mistral") and fields.has("head_dim")):
        fields.fail(
            "hidden_size", f"is {hidden_size}; a multiple of {num_heads} attention heads is needed"
        )
    if fields.has("head_dim") or family == "qwen3":
        head_dim = fields.count("head_dim")
    elif family == "qwen2" and "head_dim" in fields.values:
        fields.fail("head_dim", "is null; remove it or give its value")
    else:
        head_dim = hidden_size // num_heads
    if head_dim % 2:
        fields.fail("head_dim", f"is {head_dim}; rotary embeddings need an even number")
    return head_dim


def _refuse_sliding_window(
    fields: Fields, family: Family, num_layers: int, max_positions: int
) -> None:
    """Refuse a window that hides keys; one as long as the model's positions hides none."""
    if family == "mistral" and "layer_types" in fields.values:
        fields.fail("layer_types", "makes transformers read another family, Ministral; remove it")
    slides = _layers_slide(fields, num_layers)
    if family in ("qwen2", "qwen3"):
        window = _chosen_window(fields, num_layers, slides)
    else:
        window = _stated_window(fields, family)
        if slides or fields.flag("use_sliding_window"):
            name = "layer_types" if slides else "use_sliding_window"
            fields.fail(
                name, f"asks for sliding attention, which a {family} model has no choice of"
            )
    if window < max_positions:
        fields.fail(
            "sliding_window",
            f"is {int(window)}, shorter than max_position_embeddings ({max_positions}); "
            "supported: full attention (sliding_window null or not shorter)",
        )


def _layers_slide(fields: Fields, num_layers: int) -> bool | None:
    """Return whether ``layer_types`` names a sliding layer; None: it names nothing."""
    types = fields.values.get("layer_types")
    if types is None:
        return None
    known = ("full_attention", "sliding_attention")
    if not isinstance(types, list):
        fields.fail("layer_types", f"is {types!r}; a list is needed")
    unknown = sorted({str(kind) for kind in types if kind not in known})
    if unknown:
        fields.fail("layer_types", f"holds {unknown[0]!r}; supported: {' and '.join(known)}")
    if len(types) != num_layers:
        fields.fail(
            "layer_types", f"names {len(types)} layers, but num_hidden_layers is {num_layers}"
        )
    return "sliding_attention" in types


def _chosen_window(fields: Fields, num_layers: int, slides: bool | None) -> float:
    """Return the window of Qwen2 and Qwen3, in tokens; infinite: no layer has one."""
    switched_on = fields.flag("use_sliding_window")
    first = fields.values.get("max_window_layers", 28)
    if not isinstance(first, int) or isinstance(first, bool):
        fields.fail("max_window_layers", f"is {first!r}; a whole number is needed")
    if slides and not (switched_on and fields.has("sliding_window")):
        fields.fail(
            "layer_types", "names sliding layers, but use_sliding_window or sliding_window does not"
        )
    if not switched_on or not fields.has("sliding_window"):
        return math.inf
    slides = first < num_layers if slides is None else slides
    return fields.count("sliding_window") if slides else math.inf


def _stated_window(fields: Fields, family: Family) -> float:
    """Return the window of Mistral (4,096 if the field is missing) and Llama (none)."""
    if "sliding_window" not in fields.values:
        return 4096 if family == "mistral" else math.inf
    return fields.count("sliding_window") if fields.has("sliding_window") else math.inf
