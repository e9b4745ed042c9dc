"""What stands beside the weights in a Hugging Face model folder: config, tokenizer, prompts.

Reads and writes JSON and copies files; it never opens a weight and never imports torch, so that a
wrong folder is refused before any process is started.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from longrun.config.training import ContextEdit
from longrun.errors import InputError
from longrun.formats.text.conversation import CONVERSATION_NAME
from longrun.nn.architecture import Arch

CONFIG_NAME = "config.json"
GENERATION_NAME = "generation_config.json"
TOKENIZER_NAME = "tokenizer.json"
TOKENIZER_FILES = (
    TOKENIZER_NAME,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a model folder.

    Raises:
        InputError: the folder or the file is missing, or the file is not a JSON object.
    """
    if not folder.is_dir():
        raise InputError.at(folder, None, "is not a folder; name a Hugging Face model folder")
    return _read_object(folder / CONFIG_NAME)


def edit_context(config: Mapping[str, Any], edit: ContextEdit) -> dict[str, Any]:
    """Return the contents of ``config.json`` with the positions changed as ``edit`` says.

    >>> edit_context({"rope_theta": 1e4, "hidden_size": 8}, ContextEdit(rope_theta=5e5))
    {'rope_theta': 500000.0, 'hidden_size': 8}

    Raises:
        InputError: positions that are stretched already would be stretched by YaRN.
    """
    edited = dict(config)
    new_style = config.get("rope_parameters") is not None
    rope = dict(config.get("rope_parameters" if new_style else "rope_scaling") or {})
    if edit.rope_theta is not None:
        (rope if new_style else edited)["rope_theta"] = edit.rope_theta
    if edit.yarn_factor is not None:
        stretched = rope.get("rope_type", rope.get("type", "default"))
        if stretched != "default":
            raise InputError(
                f"context.yarn_factor: the model's positions are stretched already ({stretched});"
                " start from the model before that, or leave yarn_factor out"
            )
        original = config.get("max_position_embeddings", 0)
        kept = {key: rope[key] for key in ("rope_theta",) if key in rope}
        stretch = {"factor": edit.yarn_factor, "original_max_position_embeddings": original}
        rope = {**kept, "rope_type": "yarn", **stretch}
        edited["max_position_embeddings"] = int(original * edit.yarn_factor)
    if edit.max_positions is not None:
        edited["max_position_embeddings"] = edit.max_positions
    if rope:
        edited["rope_parameters" if new_style else "rope_scaling"] = rope
    return edited


def read_arch(folder: Path, edit: ContextEdit | None = None) -> Arch:
    """Read the architecture of a model folder and check that its tokenizer fits.

    ``edit`` changes the positions as ``edit_context`` does.

    Raises:
        InputError: as ``read_config``, an unsupported architecture, or token ids that the
            embedding does not have.
    """
    config = edit_context(read_config(folder), edit or ContextEdit())
    arch = Arch.from_hf(config, str(folder / CONFIG_NAME))
    if (folder / TOKENIZER_NAME).is_file():
        check_tokenizer_fits(folder, arch, folder)
    return arch


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read ``tokenizer.json`` of ``folder``.

    Raises:
        InputError: it is missing or damaged.
    """
    path = folder / TOKENIZER_NAME
    if not path.is_file():
        raise InputError.at(
            folder, None, f"has no {TOKENIZER_NAME}; save the tokenizer there as a fast tokenizer"
        )
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
        raise InputError.at(path, None, f"is damaged ({error}); save the tokenizer again") from None


def check_tokenizer_fits(tokenizer: Path, arch: Arch, model: Path) -> None:
    """Check that the model in ``model`` has an embedding for every token id.

    Raises:
        InputError: the tokenizer is larger than the embedding.
    """
    largest = max(read_tokenizer(tokenizer).get_vocab().values())
    if largest >= arch.vocab_size:
        raise InputError.at(
            model / CONFIG_NAME,
            None,
            f"vocab_size {arch.vocab_size} is too small for the tokenizer in {tokenizer}, whose"
            f" largest token id is {largest}; use the tokenizer that belongs to this model",
        )


def check_same_tokenizer(one: Path, other: Path) -> None:
    """Check that both folders give every token the same id.

    Raises:
        InputError: naming a token that differs.
    """
    first, second = read_tokenizer(one).get_vocab(), read_tokenizer(other).get_vocab()
    if first == second:
        return
    token = min(first.keys() | second.keys(), key=lambda t: (first.get(t) == second.get(t), t))
    raise InputError.at(
        one,
        None,
        f"was made with another tokenizer than {other}: token {token!r} is"
        f" {first.get(token, 'unknown')} here and {second.get(token, 'unknown')} there;"
        " prepare the documents again with the tokenizer of the model",
    )


def stop_token(tokenizer: Path) -> tuple[int, int]:
    """Return the token ids (stop, padding) of a tokenizer folder; padding falls back to stop.

    Raises:
        InputError: it names no ``eos_token`` or one that it does not know.
    """
    path = tokenizer / "tokenizer_config.json"
    config = _read_object(path)
    known = read_tokenizer(tokenizer)
    found: dict[str, int] = {}
    for name in ("eos_token", "pad_token"):
        text = config.get(name)
        text = text.get("content") if isinstance(text, dict) else text
        identity = None if text is None else known.token_to_id(text)
        if identity is not None:
            found[name] = identity
        elif text is not None or name == "eos_token":
            raise InputError.at(path, None, f"{name} is {text!r}; name a token of the tokenizer")
    return found["eos_token"], found.get("pad_token", found["eos_token"])


def write_companions(
    folder: Path,
    config: Mapping[str, Any],
    *,
    dtype: str,
    tokenizer: Path,
    conversation: Path | None = None,
) -> None:
    """Write everything but the weights into ``folder``, which must exist.

    Args:
        folder: the model folder to fill.
        config: contents of ``config.json``; the stop token and ``dtype`` are set here.
        dtype: type of the weights, as torch names it without ``torch.``.
        tokenizer: folder whose tokenizer files are copied.
        conversation: ``conversation.json`` to copy; None: the model carries no prompts.
    """
    stop, padding = stop_token(tokenizer)
    name_of_dtype = "torch_dtype" if "torch_dtype" in config else "dtype"
    settings = {**config, name_of_dtype: dtype, "eos_token_id": stop, "pad_token_id": padding}
    _write_object(folder / CONFIG_NAME, settings)
    generation = {"eos_token_id": [stop], "pad_token_id": padding}
    _write_object(folder / GENERATION_NAME, generation)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)
    if conversation is not None:
        shutil.copyfile(conversation, folder / CONVERSATION_NAME)


def copy_companions(source: Path, target: Path, config: Mapping[str, Any], dtype: str) -> None:
    """Copy everything but the weights into ``target``; ``config`` replaces that of ``source``."""
    name_of_dtype = "torch_dtype" if "torch_dtype" in config else "dtype"
    _write_object(target / CONFIG_NAME, {**config, name_of_dtype: dtype})
    for name in (*TOKENIZER_FILES, GENERATION_NAME, CONVERSATION_NAME):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError.at(path.parent, None, f"has no {path.name}") from None
    except ValueError as error:
        raise InputError.at(path, None, f"is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError.at(path, None, "is not a JSON object")
    return value


def _write_object(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
