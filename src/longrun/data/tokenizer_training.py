"""Train a small byte-level BPE tokenizer on the spot and write a Hugging Face tokenizer folder.

Digits, newlines and ``$`` are never merged with a neighbour, so that a number is read digit by
digit and a text that ends in a newline can be continued without changing the tokens before it.
The tags of reasoning and of code calls are one token each. It never writes a chat template.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from longrun.formats.atomic import write_text

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAG_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
_SPLIT = r"\d|\n|\$| ?\p{L}+| ?[^\s\p{L}\d$]+ ?|\s"


def train_tokenizer(texts: Iterable[str], *, vocabulary_size: int) -> Tokenizer:
    """Return a byte-level BPE of at most ``vocabulary_size`` tokens trained on ``texts``.

    Its ids: the special tokens, the tags, the 256 bytes, then the merges by falling frequency.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[*SPECIAL_TOKENS, *TAG_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
