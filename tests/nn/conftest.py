"""Small architectures and packs for the tests of the model."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from longrun.nn.architecture import Arch
from longrun.nn.decoder import Decoder
from longrun.nn.weighted_document import WeightedDocument

TINY = Arch(
    family="qwen2",
    vocab_size=61,
    hidden_size=24,
    intermediate_size=40,
    num_layers=2,
    num_heads=6,
    num_kv_heads=2,
    head_dim=8,
    norm_eps=1e-6,
    rope_theta=10_000.0,
    rope_scaling=None,
    qkv_bias=True,
    qk_norm=False,
    tied=False,
    max_positions=128,
)


@pytest.fixture
def tiny_arch() -> Arch:
    return TINY


@pytest.fixture
def build_decoder() -> Callable[..., Decoder]:
    """Build an initialised float64 decoder, with norms and biases that are not neutral."""

    def build(*, tied: bool = False, qk_norm: bool = False, **options) -> Decoder:
        arch = replace(TINY, tied=tied, qk_norm=qk_norm)
        model = Decoder(arch, **{"backend": "sdpa", "compute_dtype": torch.float64, **options})
        model.initialise(seed=3, std=0.3)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    generator = torch.Generator().manual_seed(len(parameter))
                    parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        return model.double()

    return build


@pytest.fixture
def draw_documents() -> Callable[..., list[WeightedDocument]]:
    """Draw documents of the given lengths with weights 0, 0.5 and 1."""

    def draw(
        lengths: Sequence[int], *, seed: int = 0, vocab_size: int = 61
    ) -> list[WeightedDocument]:
        rng = np.random.default_rng(seed)
        return [
            (
                rng.integers(0, vocab_size, length).astype(np.int32),
                rng.choice(np.array([0, 0.5, 1], np.float32), length),
            )
            for length in lengths
        ]

    return draw
