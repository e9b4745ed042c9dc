"""Which tensors a Hugging Face model folder holds: found from the headers, before any is read.

A folder has one ``model.safetensors``, or several files and an index that names the file of every
tensor. Whatever makes two programs read different weights from one folder is refused here. This
module never imports torch, so that a wrong folder is refused before any process is started.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from longrun.errors import InputError
from longrun.nn.architecture import Arch

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
ADAPTER_NAME = "adapter_config.json"
OUTPUT_MATRIX = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
STORED_TYPES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""Names of types in safetensors files, and as torch names them: numbers that are weights."""
_DERIVED = "rotary_emb.inv_freq"
"""Old exports store this buffer; it follows from the config."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies and what it is."""

    path: Path
    shape: list[int]
    dtype: str
    """As torch names it, without ``torch.``."""


def find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a model folder but those that follow from the config.

    Raises:
        InputError: there are no safetensors files, one is missing or damaged, they and the index
            contradict each other, or a tensor has a type that no weight has.
    """
    if (folder / ADAPTER_NAME).is_file():
        raise InputError.at(
            folder / ADAPTER_NAME, None, "is an adapter; merge it into its model and save that"
        )
    single, index = folder / WEIGHTS_NAME, folder / INDEX_NAME
    if index.is_file():
        listed = _read_index(index)
        if single.is_file() and single not in listed.values():
            raise InputError.at(
                single,
                None,
                f"lies beside {INDEX_NAME}, which names other files: transformers reads this one,"
                " other programs those; delete what is out of date",
            )
    elif single.is_file():
        listed = {}
    else:
        raise InputError.at(
            folder, None, f"has neither {WEIGHTS_NAME} nor {INDEX_NAME}; save it as safetensors"
        )
    found: dict[str, StoredTensor] = {}
    for path in sorted(set(listed.values())) or [single]:
        held = _read_header(path)
        _check_index(path, held, listed)
        twice = sorted(held.keys() & found.keys())
        if twice:
            raise InputError.at(
                path, None, f"holds {_few(twice)}, as {found[twice[0]].path.name} does; keep one"
            )
        found |= held
    return {name: tensor for name, tensor in found.items() if not name.endswith(_DERIVED)}


def check_weights(folder: Path, arch: Arch) -> dict[str, StoredTensor]:
    """Check from headers alone that ``folder`` holds the weights of ``arch``; return its tensors.

    A tied model may hold its output matrix as well.

    Raises:
        InputError: as ``find_tensors``, or a tensor is missing, unknown or misshapen.
    """
    found = find_tensors(folder)
    wanted = parameter_shapes(arch)
    optional = {OUTPUT_MATRIX: wanted[EMBEDDING]} if arch.tied else {}
    missing = sorted(wanted.keys() - found.keys())
    extra = sorted(found.keys() - wanted.keys() - optional.keys())
    if missing or extra:
        raise InputError.at(
            folder,
            None,
            f"weights do not match config.json: missing {_few(missing)}; unknown {_few(extra)}",
        )
    for name, shape in (wanted | optional).items():
        if name in found and found[name].shape != shape:
            raise InputError.at(
                found[name].path,
                None,
                f"{name} has shape {found[name].shape} but config.json asks for {shape};"
                " one of them is wrong",
            )
    return found


def parameter_shapes(arch: Arch) -> dict[str, list[int]]:
    """Return the shape of every parameter of the decoder, under the names of transformers."""
    hidden, inner, head_dim = arch.hidden_size, arch.intermediate_size, arch.head_dim
    outputs = {
        "q_proj": arch.num_heads * head_dim,
        "k_proj": arch.num_kv_heads * head_dim,
        "v_proj": arch.num_kv_heads * head_dim,
    }
    layer = {f"self_attn.{name}.weight": [size, hidden] for name, size in outputs.items()}
    layer["self_attn.o_proj.weight"] = [hidden, arch.num_heads * head_dim]
    if arch.qkv_bias:
        layer |= {f"self_attn.{name}.bias": [size] for name, size in outputs.items()}
    if arch.output_bias:
        layer["self_attn.o_proj.bias"] = [hidden]
    if arch.qk_norm:
        layer |= {f"self_attn.{name}.weight": [head_dim] for name in ("q_norm", "k_norm")}
    layer |= {f"mlp.{name}.weight": [inner, hidden] for name in ("gate_proj", "up_proj")}
    layer["mlp.down_proj.weight"] = [hidden, inner]
    norms = ("input_layernorm", "post_attention_layernorm")
    layer |= {f"{name}.weight": [hidden] for name in norms}
    shapes = {EMBEDDING: [arch.vocab_size, hidden]}
    for index in range(arch.num_layers):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = [hidden]
    return shapes if arch.tied else {**shapes, OUTPUT_MATRIX: [arch.vocab_size, hidden]}


def opened(path: Path, framework: str = "pt") -> safe_open:
    """Open a safetensors file; ``framework`` as the library names it, "np" for the header alone.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return safe_open(path, framework=framework)
    except FileNotFoundError:
        raise InputError.at(path, None, "is missing; copy the whole model folder") from None
    except (SafetensorError, OSError) as error:
        raise InputError.at(path, None, f"is damaged ({error}); copy it again") from None


def _read_index(index: Path) -> dict[str, Path]:
    """Return the file of every tensor that the index names."""
    try:
        mapping = json.loads(index.read_text())["weight_map"]
        files = {name: index.parent / file for name, file in mapping.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError.at(index, None, f"is damaged ({error})") from None
    strange = sorted(name for name, file in mapping.items() if Path(file).name != file)
    if strange or not files:
        raise InputError.at(
            index,
            None,
            f"weight_map: {_few(strange)} lies in another folder; name a file beside the index"
            if strange
            else "names no tensor; copy it again",
        )
    return files


def _read_header(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors that a file holds; their numbers must be able to be weights."""
    held = {}
    with opened(path, "np") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            part = file.get_slice(name)
            stored: str = part.get_dtype()
            if stored not in STORED_TYPES:
                raise InputError.at(
                    path,
                    None,
                    f"{name} has type {stored}, which is no type of weights (supported:"
                    f" {', '.join(STORED_TYPES)}); dequantise the model and save it again",
                )
            shape = list(part.get_shape())
            held[name] = StoredTensor(path, shape, STORED_TYPES[stored])
    return held


def _check_index(path: Path, held: Mapping[str, StoredTensor], listed: Mapping[str, Path]) -> None:
    """Check that a file holds all that the index says it does: what it lacks would stay unset."""
    absent = sorted({name for name, file in listed.items() if file == path} - held.keys())
    if absent:
        raise InputError.at(
            path, None, f"lacks what {INDEX_NAME} says it holds: {_few(absent)}; copy it again"
        )


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3]) or "none"
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
