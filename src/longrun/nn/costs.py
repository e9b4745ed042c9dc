"""What a model costs: parameters, floating-point operations and bytes, from its configuration.

Everything is a pure function of ``ModelShape``; nothing here was measured, reads a file or needs
torch. Operations are counted for training, forward and backward, causal and per document:

    linear     6 * (matrices of the layers + output matrix)             per token
    attention  6 * layers * query channels * S_eff                      per token
    model      linear + attention
    hardware   linear + 7 * layers * query channels * S_eff + recomputation

``S_eff`` is the length that an average token's attention sees: ``sum(S_i^2) / sum(S_i)`` over the
documents. The output matrix counts even when it is tied, looking up an embedding does not. A
flash backward pass computes the scores again, so it costs 2.5 times its forward pass (Dao 2023,
arXiv:2307.08691, section 3.1.2): 2 + 5 = 7.

Trace for Qwen2.5-1.5B, documents of 7,500 tokens: matrices 28 * 46.79 M = 1.310 G, output 0.233 G,
linear 6 * 1.544 G = 9.26 G; attention 6 * 28 * 1536 * 7500 = 1.94 G; model 11.2 G per token.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, assert_never

from longrun.nn.architecture import Arch

ATTENTION_RATE = 0.5
"""Speed of attention over that of matrix products, in training; an assumption, kernels differ.
FlashAttention 2, which torch brings, is published with 335 and 320 TFLOP/s forward and backward on
an H100 whose products reach about 640. Newer kernels come to 0.8."""

Recompute = Literal["none", "pointwise", "all_but_attention", "full"]
"""What the backward pass computes again.

``none``               nothing; every input of a fused operation is kept
``pointwise``          norms and the gated product: no matrix product
``all_but_attention``  everything but the attention; x and o are kept
``full``               the whole layer; x is kept
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """The sizes of a decoder that decide its cost."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    """Query heads."""
    query_size: int
    """Channels of all query heads: heads times channels of a head."""
    kv_size: int
    """Channels of all key heads; as many again for the values."""
    vocab_size: int
    tied: bool
    """The output matrix is the embedding matrix."""
    vector_parameters: int
    """Parameters that are not in a matrix: norms and biases."""

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], where: str = "config.json") -> "ModelShape":
        """Read a parsed ``config.json``; ``where`` leads the error messages.

        Raises:
            InputError: a field is missing or names a model that Longrun does not train.
        """
        return cls.of(Arch.from_hf(config, where))

    @classmethod
    def of(cls, arch: Arch) -> "ModelShape":
        """Take the sizes of ``arch``."""
        query_size, kv_size = arch.num_heads * arch.head_dim, arch.num_kv_heads * arch.head_dim
        in_layer = (
            2 * arch.hidden_size
            + arch.qkv_bias * (query_size + 2 * kv_size)
            + arch.output_bias * arch.hidden_size
            + arch.qk_norm * 2 * arch.head_dim
        )
        return cls(
            num_layers=arch.num_layers,
            hidden_size=arch.hidden_size,
            intermediate_size=arch.intermediate_size,
            num_heads=arch.num_heads,
            query_size=query_size,
            kv_size=kv_size,
            vocab_size=arch.vocab_size,
            tied=arch.tied,
            vector_parameters=arch.num_layers * in_layer + arch.hidden_size,
        )

    @property
    def layer_matrix_parameters(self) -> int:
        """Parameters of the matrices of one layer."""
        attention = 2 * self.hidden_size * (self.query_size + self.kv_size)
        return attention + 3 * self.hidden_size * self.intermediate_size

    @property
    def layer_matrices_parameters(self) -> int:
        """Parameters of the matrices of all layers."""
        return self.num_layers * self.layer_matrix_parameters

    @property
    def output_parameters(self) -> int:
        """Parameters of the output matrix, also when it is the embedding."""
        return self.vocab_size * self.hidden_size

    @property
    def table_parameters(self) -> int:
        """Parameters of the embedding and the output matrix; a tied matrix counts once."""
        return self.output_parameters * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """Parameters that are trained."""
        return self.table_parameters + self.layer_matrices_parameters + self.vector_parameters


def effective_length(document_tokens: Iterable[int]) -> float:
    """Return ``S_eff = sum(S_i^2) / sum(S_i)`` in tokens; 0 without documents.

    >>> effective_length([10, 30])
    25.0
    """
    total, squares = 0, 0
    for tokens in document_tokens:
        total += tokens
        squares += tokens * tokens
    return squares / total if total else 0.0


def linear_flops(shape: ModelShape) -> float:
    """Return operations per trained token in matrix products, forward and backward."""
    return 6.0 * (shape.layer_matrices_parameters + shape.output_parameters)


def attention_flops(shape: ModelShape, effective_tokens: float) -> float:
    """Return operations per trained token in causal attention, forward and backward."""
    return 6.0 * shape.num_layers * shape.query_size * effective_tokens


def model_flops(shape: ModelShape, effective_tokens: float) -> float:
    """Return operations per trained token that the mathematics needs: the numerator of MFU."""
    return linear_flops(shape) + attention_flops(shape, effective_tokens)


def hardware_flops(
    shape: ModelShape, effective_tokens: float, recompute: Recompute = "none"
) -> float:
    """Return operations per trained token that the device performs with a flash backward pass."""
    attention = 2.0 * shape.num_layers * shape.query_size * effective_tokens
    again = 2.0 * shape.num_layers * recomputed_parameters(shape, recompute)
    if recompute == "full":
        again += attention
    return linear_flops(shape) + 3.5 * attention + again


def attention_cost(shape: ModelShape, rate: float = ATTENTION_RATE) -> float:
    """Return the time of attending to one key over the time of a token's matrices.

    A training of a document of n tokens takes ``n + attention_cost * n ** 2``, in tokens.
    ``rate`` is the speed of attention over that of matrix products.
    """
    attention = 7.0 * shape.num_layers * shape.query_size / rate
    return attention / linear_flops(shape)


def recomputed_parameters(shape: ModelShape, recompute: Recompute) -> int:
    """Return the parameters of one layer whose matrix products are computed again."""
    d, q, k, f = shape.hidden_size, shape.query_size, shape.kv_size, shape.intermediate_size
    match recompute:
        case "none" | "pointwise":
            return 0
        case "all_but_attention":
            # q, k, v are needed by the backward pass of the attention; down_proj's output is not.
            return d * q + 2 * d * k + d * q + 2 * d * f
        case "full":
            return shape.layer_matrix_parameters
        case _:
            assert_never(recompute)
