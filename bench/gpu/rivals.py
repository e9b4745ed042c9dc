"""The trainers of the transformers family as contenders.

Padding-free packs, float32 weights under bfloat16 autocast, fused AdamW. Attention is either what
transformers ships or torch's varlen kernel (FlashAttention 2) registered with it, so that nobody
loses for want of a package. Each is run with its own advice on checkpointing; the row says which.
"""

import inspect
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpu.cases import Case, Document, Phase, device, draw_steps, fill
from gpu.meter import Meter
from peers import settings_of_trainer, train_metered

VARLEN = "torch_varlen"
LR = 1e-5


@dataclass(frozen=True)
class Rival:
    """One way to use a trainer."""

    attention: str = VARLEN
    checkpointing: bool = True
    liger: bool = False
    trl: bool = False


def varlen_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attend by torch's varlen kernel, in the form that transformers registers."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x[0].transpose(0, 1).to(torch.bfloat16) for x in (query, key, value))
    cu, longest = more["cu_seq_lens_q"], int(more["max_length_q"])
    shared: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0)}
    if "enable_gqa" in inspect.signature(varlen_attn).parameters:
        shared["enable_gqa"] = True
    return varlen_attn(q, k, v, cu, cu, longest, longest, **shared)[None], None


def train(case: Case, chosen: Sequence[Phase], rival: Rival) -> dict[str, Any]:
    """Train every phase and return what was measured."""
    model = _model(case, rival)
    measured: dict[str, Any] = {"phases": {}}
    for phase in chosen:
        meter = Meter()
        with tempfile.TemporaryDirectory() as folder:
            _train_phase(case, phase, rival, model, meter, folder)
        recompute = "full" if rival.checkpointing else "none"
        measured["phases"][phase[0]] = meter.report(case, phase, recompute)
    return measured


def _model(case: Case, rival: Rival) -> Any:
    from transformers import AttentionInterface, Qwen2Config, Qwen2ForCausalLM

    AttentionInterface.register(VARLEN, varlen_attention)
    config = Qwen2Config(**case.config())
    config._attn_implementation = rival.attention if torch.cuda.is_available() else "sdpa"
    with torch.device(device()):
        model = Qwen2ForCausalLM(config)
    fill(model.named_parameters())
    return model


def _train_phase(
    case: Case, phase: Phase, rival: Rival, model: Any, meter: Meter, folder: str
) -> None:
    from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

    steps = draw_steps(case, phase)
    settings = {
        **settings_of_trainer(folder, steps=len(steps), lr=LR, bf16=True),
        "gradient_accumulation_steps": len(steps[0]),
        "gradient_checkpointing": rival.checkpointing,
        "use_liger_kernel": rival.liger,
        "use_cpu": not torch.cuda.is_available(),
    }
    rows = [_row(pack) for step in steps for pack in step]
    if not rival.trl:
        flash = rival.attention != "sdpa"
        flatten = DataCollatorWithFlattening(return_flash_attn_kwargs=flash)
        options = {"data_collator": lambda packs: flatten(packs[0]["documents"])}
        train_metered(Trainer, meter, model, TrainingArguments(**settings), rows, options)
        return
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        **settings,
        padding_free=True,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    flat = Dataset.from_list([row["flat"] for row in rows])
    options = {"processing_class": _tokenizer()}
    train_metered(SFTTrainer, meter, model, arguments, flat, options)


def _row(pack: Sequence[Document]) -> dict[str, Any]:
    """Return a pack as the collator of transformers and as that of TRL takes it."""
    tokens = [d.tokens.tolist() for d in pack]
    return {
        "documents": [{"input_ids": ids, "labels": ids} for ids in tokens],
        "flat": {
            "input_ids": [token for ids in tokens for token in ids],
            "labels": [label for ids in tokens for label in [-100, *ids[1:]]],
            "seq_lengths": [len(ids) for ids in tokens],
        },
    }


def _tokenizer() -> Any:
    """Return a tokenizer that is never used: TRL insists on one."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<unk>": 0, "<end>": 1}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", eos_token="<end>", pad_token="<end>"
    )
