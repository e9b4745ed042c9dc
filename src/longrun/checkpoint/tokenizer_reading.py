"""A tokenizer folder as transformers reads it: the word to which the tokens of prepare are held.

transformers may read a folder otherwise than its ``tokenizer.json`` says: a class that
``tokenizer_config.json`` names builds its own rules, and other files name more tokens. What it then
holds is the tokenizer that everybody else works with.

transformers takes seconds and hundreds of MB to import. So it is asked in a process of its own,
unless this process has it already.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from longrun.errors import InputError
from longrun.formats.text.exact_tokenizer import TOKENIZER_FILE

_COMPARED = ("normalizer", "pre_tokenizer", "model")


class Question(msgspec.Struct):
    """What transformers is asked about a folder."""

    folder: str
    chat_template: str
    special_tokens: dict[str, str]
    """What the template may name."""
    conversations: list[list[dict[str, str]]]
    """Messages of prompts."""
    texts: list[str]
    """Texts that stand alone."""


class Reading(msgspec.Struct):
    """What transformers says about a folder."""

    content: str | None = None
    """The tokenizer that it holds, as ``tokenizer.json``; None: the one of the file."""
    prompts: list[list[int]] = []
    """The tokens of each conversation, with the header of the answer."""
    texts: list[list[int]] = []
    error: str | None = None
    """Why it cannot read the folder."""


def ask_transformers(question: Question) -> Reading:
    """Return how transformers reads a tokenizer folder and renders conversations.

    Raises:
        InputError: transformers cannot read the folder or render a conversation.
    """
    if "transformers" in sys.modules:
        reading = _answer(question)
    else:
        command = [sys.executable, "-m", "longrun.checkpoint.tokenizer_reading"]
        asked = msgspec.json.encode(question)
        done = subprocess.run(command, input=asked, stdout=subprocess.PIPE, check=True)
        reading = msgspec.json.decode(done.stdout, type=Reading)
    if reading.error is not None:
        raise InputError.at(
            Path(question.folder), None, f"transformers cannot read this tokenizer: {reading.error}"
        )
    return reading


def _answer(question: Question) -> Reading:
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(question.folder, local_files_only=True)
        held = tokenizer.backend_tokenizer.to_str()
        prompts = [
            tokenizer.apply_chat_template(
                messages,
                chat_template=question.chat_template,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                **_missing(tokenizer, question.special_tokens),
            )
            for messages in question.conversations
        ]
        texts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in question.texts]
    except Exception as error:  # noqa: BLE001  (it raises whatever the classes of models raise)
        return Reading(error=f"{type(error).__name__}: {error}".splitlines()[0])
    content = None if _same(Path(question.folder) / TOKENIZER_FILE, held) else held
    return Reading(content, prompts, texts)


def _missing(tokenizer: Any, named: dict[str, str]) -> dict[str, str]:
    """Return what a template finds in the export and not in the folder: its end token."""
    return {} if tokenizer.eos_token else {"eos_token": named["eos_token"]}


def _same(path: Path, held: str) -> bool:
    """Say whether the tokenizer that transformers holds makes the tokens of the file."""
    from tokenizers import Tokenizer

    file, other = json.loads(Tokenizer.from_file(str(path)).to_str()), json.loads(held)
    if any(_essence(file[key]) != _essence(other[key]) for key in _COMPARED):
        return False
    # Tokens that other files name stand behind those of the file; no model was made for them.
    added = {one["id"]: _matching(one) for one in other["added_tokens"]}
    return all(added.get(one["id"]) == _matching(one) for one in file["added_tokens"])


def _matching(added: dict[str, Any]) -> dict[str, Any]:
    """Return what decides where an added token is found."""
    return {key: value for key, value in added.items() if key not in ("id", "special")}


def _essence(part: Any) -> Any:
    """Leave out of a part of ``tokenizer.json`` what decides no token."""
    if isinstance(part, list):
        return [_essence(inside) for inside in part]
    if not isinstance(part, dict) or "vocab" in part:
        return part
    inner = part.get("normalizers") or part.get("pretokenizers") or []
    if part.get("type") == "Sequence" and len(inner) <= 1:
        return _essence(inner[0]) if inner else None
    return {key: _essence(value) for key, value in part.items() if key != "trim_offsets"}


def _main() -> None:
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    sys.stdout.buffer.write(msgspec.json.encode(_answer(question)))


if __name__ == "__main__":
    _main()
