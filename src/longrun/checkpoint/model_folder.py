"""What stands beside the weights in a Hugging Face model folder: config, tokenizer, prompts.

Reads and writes JSON and copies files; it never opens a weight and never imports torch, so that a
wrong folder is refused before any process is started.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from longrun.config.training import ContextEdit
from longrun.errors import InputError
from longrun.formats.text.conversation import CONVERSATION_NAME
from longrun.nn.architecture import ARCHITECTURES, Arch
from longrun.nn.fields import Fields
from longrun.nn.positions import ROPE_FIELDS, YarnRopeScaling, read_rope, rope_fields

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
log = logging.getLogger(__name__)


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a model folder.

    Raises:
        InputError: the folder or the file is missing, or the file is not a JSON object.
    """
    if not folder.is_dir():
        raise InputError.at(folder, None, "is not a folder; name a Hugging Face model folder")
    return _read_object(folder / CONFIG_NAME)


def edit_context(
    config: Mapping[str, Any], edit: ContextEdit, where: str = CONFIG_NAME
) -> dict[str, Any]:
    """Return the contents of ``config.json`` with the positions changed as ``edit`` says.

    ``where`` is the file, for the error messages. Changed positions stand in both spellings.

    >>> edited = edit_context({"rope_theta": 1e4}, ContextEdit(rope_theta=5e5))
    >>> edited["rope_theta"], edited["rope_parameters"]["rope_theta"]
    (500000.0, 500000.0)

    Raises:
        InputError: the positions cannot be read, or are stretched already and would be by YaRN.
    """
    if edit == ContextEdit():
        return dict(config)
    fields = Fields(config, where)
    rope = read_rope(fields)
    edited = {name: value for name, value in config.items() if name not in ROPE_FIELDS}
    if edit.rope_theta is not None:
        rope = replace(rope, theta=edit.rope_theta)
    if edit.yarn_factor is not None:
        if rope.scaling is not None:
            raise InputError(
                "context.yarn_factor: the model's positions are stretched already"
                f" ({rope.scaling.rope_type}); start from the model before that, or leave"
                " yarn_factor out"
            )
        original = fields.count("max_position_embeddings")
        rope = replace(rope, scaling=YarnRopeScaling.of(edit.yarn_factor, original))
        edited["max_position_embeddings"] = int(original * edit.yarn_factor)
    if edit.max_positions is not None:
        edited["max_position_embeddings"] = edit.max_positions
    return {**edited, **rope_fields(rope)}


def portable_config(config: Mapping[str, Any], dtype: str, where: str) -> dict[str, Any]:
    """Return the contents of ``config.json`` so that every reader takes them for one model.

    transformers 4 reads ``rope_theta``, ``rope_scaling`` and ``torch_dtype``, transformers 5
    ``rope_parameters`` and ``dtype``: both are written, and agree. Windows that hide nothing are
    left out, because transformers 4.51 applies them whatever ``use_sliding_window`` says; so are
    the defaults in which versions differ.

    Raises:
        InputError: the model is not one that Longrun computes.
    """
    arch = Arch.from_hf(config, where)
    _warn_of_another_factor(arch, where)
    left_out = (*ROPE_FIELDS, "layer_types", "max_window_layers", "use_sliding_window")
    settings = {name: value for name, value in config.items() if name not in left_out}
    if arch.family != "llama":
        settings["sliding_window"] = None
    return {
        **settings,
        **rope_fields(arch.rope),
        "architectures": [ARCHITECTURES[arch.family]],
        "num_key_value_heads": arch.num_kv_heads,
        "tie_word_embeddings": arch.tied,
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def _warn_of_another_factor(arch: Arch, where: str) -> None:
    """Say so where transformers 4.51 makes another model of the positions: nothing can be done."""
    scaling = arch.rope_scaling
    if not isinstance(scaling, YarnRopeScaling):
        return
    implied = arch.max_positions / scaling.original_max_positions
    if implied != scaling.factor:
        log.warning(
            "%s: max_position_embeddings is %g times original_max_position_embeddings, but yarn's"
            " factor is %g: transformers 4.51 computes with the former, later ones with the latter",
            *(where, implied, scaling.factor),
        )


def read_arch(folder: Path, edit: ContextEdit | None = None) -> Arch:
    """Read the architecture of a model folder and check that its tokenizer fits.

    ``edit`` changes the positions as ``edit_context`` does.

    Raises:
        InputError: as ``read_config``, an unsupported architecture, or token ids that the
            embedding does not have.
    """
    where = str(folder / CONFIG_NAME)
    arch = Arch.from_hf(edit_context(read_config(folder), edit or ContextEdit(), where), where)
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
    ends = {"eos_token_id": stop, "pad_token_id": padding}
    settings = portable_config(config, dtype, str(folder / CONFIG_NAME)) | ends
    _write_object(folder / CONFIG_NAME, settings)
    generation = {"eos_token_id": [stop], "pad_token_id": padding}
    if isinstance(config.get("bos_token_id"), int):
        generation["bos_token_id"] = config["bos_token_id"]
    _write_object(folder / GENERATION_NAME, generation)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)
    if conversation is not None:
        shutil.copyfile(conversation, folder / CONVERSATION_NAME)


def copy_companions(source: Path, target: Path, config: Mapping[str, Any], dtype: str) -> None:
    """Copy everything but the weights into ``target``; ``config`` replaces that of ``source``."""
    settings = portable_config(config, dtype, str(source / CONFIG_NAME))
    _write_object(target / CONFIG_NAME, settings)
    for name in (*TOKENIZER_FILES, GENERATION_NAME, CONVERSATION_NAME):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError.at(path.parent, None, f"has no {path.name}") from None
    except (ValueError, RecursionError) as error:
        raise InputError.at(path, None, f"is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError.at(path, None, "is not a JSON object")
    return value


def _write_object(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
