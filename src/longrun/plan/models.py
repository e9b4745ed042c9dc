"""Models that can be planned for by name, and any other by its ``config.json``.

The named ones have the published sizes of Qwen2.5; nothing but sizes is needed to plan.
"""

import json
from pathlib import Path
from typing import Any

from longrun.config.settings import nearest
from longrun.errors import InputError
from longrun.nn.architecture import Arch


def _qwen(
    layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int, *, tied: bool
) -> dict[str, Any]:
    return {
        "model_type": "qwen2",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": 151936 if tied else 152064,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
    }


NAMED = {
    "0.5b": _qwen(24, 896, 4864, 14, 2, tied=True),
    "1.5b": _qwen(28, 1536, 8960, 12, 2, tied=True),
    "7b": _qwen(28, 3584, 18944, 28, 4, tied=False),
    "14b": _qwen(48, 5120, 13824, 40, 8, tied=False),
    "32b": _qwen(64, 5120, 27648, 40, 8, tied=False),
}


def find_model(model: str) -> Arch:
    """Return the architecture of a named model, a model folder or a ``config.json``.

    Raises:
        InputError: it is none of them, or a model that Longrun does not train.
    """
    if model.lower() in NAMED:
        return Arch.from_hf(NAMED[model.lower()], model)
    path = Path(model)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        remedy = f"name a model folder, a config.json, or a size; {nearest(model, list(NAMED))}"
        raise InputError.at(path, None, f"no such file; {remedy}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError.at(path, None, f"is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise InputError.at(path, None, "must be a JSON object")
    return Arch.from_hf(config, str(path))
