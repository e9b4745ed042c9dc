"""The same model and the same packs for every contender of ``train_cpu.py``, as files.

Lengths are log-normal, as those of worked solutions are, and are packed by Longrun's own packer.
Token ids follow Zipf's law. The first fifth of each document is its prompt and carries no loss.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

IGNORED = -100
"""Label of a token without loss, as transformers has it."""
PACKS_NAME, MODEL_NAME, SETTINGS_NAME = "packs.npz", "model", "settings.json"


@dataclass(frozen=True)
class Settings:
    """What is trained, and how."""

    dtype: str = "float32"
    """Compute type; the weights are float32 in any case."""
    threads: int = 1
    pack_tokens: int = 4096
    num_packs: int = 6
    """Optimizer steps: one pack each."""
    warmup_packs: int = 2
    """First steps that are not timed."""
    median_length: int = 400
    """Of the documents; their log has the standard deviation 1."""
    hidden: int = 384
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    intermediate: int = 1024
    vocab: int = 8192
    lr: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class Document:
    """One document: its tokens and what each is worth as a target."""

    tokens: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int64]
    """The token where it is learned, else ``IGNORED``."""


def write(folder: Path, settings: Settings) -> None:
    """Write the settings, the packs and the model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS_NAME).write_text(json.dumps(asdict(settings)))
    np.savez(folder / PACKS_NAME, **draw_packs(settings))
    write_model(folder / MODEL_NAME, settings)


def read_settings(folder: Path) -> Settings:
    return Settings(**json.loads((folder / SETTINGS_NAME).read_text()))


def draw_packs(settings: Settings) -> dict[str, npt.NDArray[np.int64]]:
    """Return (lengths of the documents of each pack, and all tokens), one entry per pack."""
    from longrun.data.packs.packing import pack

    rng = np.random.default_rng(settings.seed)
    median, longest = settings.median_length, settings.pack_tokens
    count = 4 * settings.num_packs * longest // median
    lengths = np.clip(rng.lognormal(np.log(median), 1.0, count), 8, longest).astype(np.int32)
    packing = pack(lengths, longest, "random-exact", (settings.seed, 0))
    entries = {}
    for index in range(settings.num_packs):
        chosen = packing.documents[packing.starts[index] : packing.starts[index + 1]]
        total = int(lengths[chosen].sum())
        entries[f"lengths-{index}"] = lengths[chosen].astype(np.int64)
        entries[f"tokens-{index}"] = np.minimum(rng.zipf(1.3, total), settings.vocab) - 1
    return entries


def read_packs(folder: Path) -> list[list[Document]]:
    """Return the documents of every pack."""
    with np.load(folder / PACKS_NAME) as entries:
        count = len(entries.files) // 2
        return [_split(entries[f"tokens-{i}"], entries[f"lengths-{i}"]) for i in range(count)]


def _split(tokens: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> list[Document]:
    documents = []
    for part in np.split(tokens, np.cumsum(lengths)[:-1]):
        labels = part.copy()
        labels[: max(1, len(part) // 5)] = IGNORED
        documents.append(Document(part.astype(np.int32), labels))
    return documents


def write_model(folder: Path, settings: Settings) -> None:
    """Write a Qwen2 model with random weights and a tokenizer that some trainers insist on."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(settings.seed)
    config = Qwen2Config(
        vocab_size=settings.vocab,
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        max_position_embeddings=settings.pack_tokens,
        tie_word_embeddings=False,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(WordLevel({"<unk>": 0, "<end>": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", eos_token="<end>", pad_token="<end>"
    ).save_pretrained(folder)
