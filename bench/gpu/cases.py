"""What is measured: models by their sizes, and fixed lists of document lengths.

Nothing is downloaded: weights are drawn on the device from the name of each parameter, so that all
contenders start from the same numbers, and token ids follow Zipf's law.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

MIX = (
    (20709, 6470, 5589),
    (8502, 4371, 7211, 5507, 7177),
    (3297, 14415, 15027),
    (3272, 2161, 4190, 7138, 15787),
)
"""Four packs of 32,768: log-normal lengths of mean 7,500 (sigma 0.7), S_eff 11.5k over all four."""
TINY_MIX = ((120, 60, 70), (128, 100, 25), (200, 50), (30, 90, 128))


@dataclass(frozen=True)
class Case:
    """One model and its packs."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    mix: tuple[tuple[int, ...], ...] = MIX
    longest: int = 32768
    """Tokens of the pack that is one document."""
    warmup: int = 3
    timed: int = 8
    recompute: str = "none"
    """Longrun's setting for this model; the rivals have theirs."""

    def config(self) -> dict[str, Any]:
        """Return a Hugging Face ``config.json``."""
        return {
            "model_type": "qwen2",
            "architectures": ["Qwen2ForCausalLM"],
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": self.longest,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1_000_000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tied,
            "use_sliding_window": False,
        }


CASES = {
    "1.5b": Case("1.5b", 1536, 28, 12, 2, 128, 8960, 151936, True),
    "7b": Case("7b", 3584, 28, 28, 4, 128, 18944, 152064, False, timed=4, recompute="full"),
    "tiny": Case("tiny", 64, 2, 4, 2, 16, 128, 512, True, TINY_MIX, 256, warmup=1, timed=2),
}

Phase = tuple[str, list[list[tuple[int, ...]]]]
"""A name and, for each step, the lengths of the documents of each of its packs."""


def phases(case: Case) -> list[Phase]:
    """Return what every contender trains: the mix, one long document, and four packs a step."""
    mix, steps = list(case.mix), case.warmup + case.timed
    return [
        ("mix", [[mix[step % len(mix)]] for step in range(steps)]),
        ("document", [[(case.longest,)] for _ in range(1 + max(1, case.timed // 2))]),
        ("four packs a step", [mix for _ in range(2)]),
    ]


def untimed(case: Case, phase: str) -> int:
    """Return how many first steps of a phase do not count."""
    return case.warmup if phase == "mix" else 1


@dataclass(frozen=True)
class Document:
    """Tokens of a document; all but its first are learned."""

    tokens: np.ndarray


def draw_pack(case: Case, lengths: Iterable[int], seed: int) -> list[Document]:
    """Draw the tokens of a pack."""
    rng = np.random.default_rng(seed)
    return [
        Document((np.minimum(rng.zipf(1.3, n), case.vocab) - 1).astype(np.int32)) for n in lengths
    ]


def draw_steps(case: Case, phase: Phase) -> list[list[list[Document]]]:
    """Return the packs of every step of a phase; equal packs get equal tokens."""
    seeds = {lengths: index for index, lengths in enumerate((*case.mix, (case.longest,)))}
    return [[draw_pack(case, pack, seeds[pack]) for pack in step] for step in phase[1]]


@torch.no_grad()
def fill(named_parameters: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Draw weights that depend on the name of the parameter and on its device only."""
    for name, parameter in named_parameters:
        if parameter.ndim > 1:
            generator = torch.Generator(parameter.device).manual_seed(zlib.crc32(name.encode()))
            parameter.normal_(0.0, 0.02, generator=generator)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)


def device() -> torch.device:
    """Return the GPU, or the CPU for a smoke test."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
