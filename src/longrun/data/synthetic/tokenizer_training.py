r"""Train a small byte-level BPE tokenizer on the spot and write a Hugging Face tokenizer folder.

Texts are normalised and split as the tokenizers of Qwen2 do it (NFC; every digit alone): the models
that get such a tokenizer are Qwen2 models, and transformers replaces the rules of a tokenizer in a
Qwen2 folder by these, whatever the folder says. The tags of reasoning and of code calls are one
token each. It never writes a chat template.

``"b = 24\n"`` becomes ``b``, `` =``, `` ``, ``2``, ``4``, ``\n``.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from longrun.formats.stages.atomic import atomic_folder

PADDING_TOKEN = "<|endoftext|>"
STOP_TOKEN = "<|im_end|>"
SPECIAL_TOKENS = (PADDING_TOKEN, "<|im_start|>", STOP_TOKEN)
"""Tokens of the ChatML layout; their ids are 0, 1 and 2."""
TAG_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""Tags inside a response. They are ordinary text: decoding never skips them."""
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The splitting expression of Qwen2's published tokenizer."""


def train_tokenizer(texts: Iterable[str], *, vocabulary_size: int) -> Tokenizer:
    """Return a byte-level BPE trained on ``texts``.

    Ids in order: special tokens, the 256 bytes, merges, together at most ``vocabulary_size`` (few
    different words give fewer), then the tags.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAG_TOKENS])
    return tokenizer


def write_tokenizer_folder(tokenizer: Tokenizer, folder: Path, *, model_max_length: int) -> None:
    """Write ``tokenizer`` as a folder that ``AutoTokenizer.from_pretrained`` loads.

    Generation stops at ``<|im_end|>``. ``model_max_length`` is in tokens. ``folder`` appears
    whole or not at all.
    """
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": STOP_TOKEN,
        "pad_token": PADDING_TOKEN,
        "additional_special_tokens": [
            token for token in SPECIAL_TOKENS if token not in (STOP_TOKEN, PADDING_TOKEN)
        ],
        "model_max_length": model_max_length,
        "clean_up_tokenization_spaces": False,
    }
    with atomic_folder(folder) as aside:
        tokenizer.save(str(aside / "tokenizer.json"))
        text = json.dumps(settings, indent=2, ensure_ascii=True) + "\n"
        (aside / "tokenizer_config.json").write_text(text, encoding="utf-8")
