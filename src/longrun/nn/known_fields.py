"""Every field of ``config.json``: used, held to the one value that is computed, or harmless.

There is no fourth kind. A field that stands in none of the tables is refused by name, because
transformers or an inference engine may compute with it.

* *Used*: ``longrun.nn.architecture`` reads it and decides what its value means.
* *Neutral*: it would change the computation, so only the values that change nothing are taken.
* *Harmless*: no value of it changes a logit or a gradient of the model.
"""

import json
from collections.abc import Mapping
from typing import Any

from longrun.nn.fields import Fields

USED = frozenset(
    (
        "architectures",
        "attention_bias",
        "dtype",
        "head_dim",
        "hidden_act",
        "hidden_size",
        "intermediate_size",
        "layer_types",
        "max_position_embeddings",
        "max_window_layers",
        "model_type",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "original_max_position_embeddings",
        "partial_rotary_factor",
        "rms_norm_eps",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "sliding_window",
        "tie_word_embeddings",
        "torch_dtype",
        "use_sliding_window",
        "vocab_size",
    )
)
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "attention_dropout": (0,),
    "auto_map": (None,),
    "cross_attention_hidden_size": (None,),
    "is_causal": (True,),
    "is_encoder_decoder": (False,),
    "is_llama_config": (True,),
    "mlp_bias": (False,),
    "per_layer_config": (None,),
    "pruned_heads": (None, {}),
    "quantization_config": (None,),
    "return_dict": (True, None),
    "rope_interleaved": (False,),
    "tie_encoder_decoder": (False,),
    "torchscript": (False,),
    "use_mrope": (False,),
}
_GENERATION = frozenset(
    (
        "assistant_confidence_threshold",
        "assistant_lookbehind",
        "bad_words_ids",
        "begin_suppress_tokens",
        "diversity_penalty",
        "do_sample",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "encoder_repetition_penalty",
        "epsilon_cutoff",
        "eta_cutoff",
        "exponential_decay_length_penalty",
        "length_penalty",
        "max_length",
        "max_new_tokens",
        "min_length",
        "min_p",
        "no_repeat_ngram_size",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_scores",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict_in_generate",
        "suppress_tokens",
        "target_lookbehind",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "use_cache",
    )
)
"""How text is drawn from the model; old files keep it here."""
_KEPT_BOOKS = frozenset(
    (
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_commit_hash",
        "_flash_attn_2_enabled",
        "_model_name_or_path",
        "_name_or_path",
        "attn_implementation",
        "chunk_size_feed_forward",
        "finetuning_task",
        "gradient_checkpointing",
        "id2label",
        "initializer_range",
        "is_decoder",
        "label2id",
        "max_sequence_length",
        "model_max_length",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "output_past",
        "prefix",
        "pretraining_tp",
        "problem_type",
        "task_specific_params",
        "tf_legacy_loss",
        "tokenizer_class",
        "transformers.js_config",
        "transformers_version",
        "unsloth_fixed",
        "unsloth_version",
        "use_bfloat16",
    )
)
"""Names, versions, labels, and how a program returns or stores what it computed.

So is every field whose name ends in ``_token_id``. Of ``pad_token_id``: transformers gives the
embedding of this token no gradient, Longrun does, because no document is padded here and so the
token has no meaning but its own.
"""
HARMLESS = _GENERATION | _KEPT_BOOKS
_REMEDIES = {
    "quantization_config": "dequantise the weights; beside float weights, remove the field",
    "auto_map": "it names code of its own; remove it if the family's own code computes this model",
    "attention_dropout": "set it to 0",
}


def check_fields(fields: Fields) -> None:
    """Check that nothing in a ``config.json`` asks for what the decoder does not compute.

    Raises:
        InputError: naming the first field that is unknown or that has a value that would count.
    """
    for name, value in fields.values.items():
        if name in NEUTRAL:
            if not any(_same(value, neutral) for neutral in NEUTRAL[name]):
                supported = " or ".join(map(json.dumps, NEUTRAL[name]))
                remedy = f"; {_REMEDIES[name]}" if name in _REMEDIES else ""
                fields.fail(name, f"is {_shown(value)}; supported: {supported}{remedy}")
        elif name.endswith("_token_id"):
            if not _names_tokens(value):
                fields.fail(name, f"is {_shown(value)}; a token id, a list or null is needed")
        elif name not in USED and name not in HARMLESS:
            fields.fail(
                name,
                "is a field that Longrun does not know, so what it does to the model is not known"
                " either; remove it if it does nothing",
            )


def _same(value: Any, neutral: Any) -> bool:
    """Compare as JSON does: true is not 1, but 0.0 is 0."""
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)


def _names_tokens(value: Any) -> bool:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    return all(isinstance(token, int) and not isinstance(token, bool) for token in ids)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
