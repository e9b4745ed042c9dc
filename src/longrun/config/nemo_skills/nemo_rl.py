"""The keys of the trainer that later versions of the reference use, NeMo-RL.

It counts a batch in samples and packs them while it trains, so sizes of batches do not carry over.
"""

from typing import Any

from longrun.config.nemo_skills.option import (
    Table,
    as_list,
    idle,
    moved,
    read_precision,
    refused,
    same,
)


def _read_clip(value: Any) -> Any:
    """0 is no clipping there."""
    return None if value == 0 else value


_SAMPLES = refused("counts samples; here a step takes packs: say global_batch_size=PACKS")
_OFF = same(False, because="all weights are trained", instead="adapters are not here")
_CONFIGURED = idle("`sharding`, `compile` and `attention` choose how it is computed")
_RECOMPUTE = refused("say recompute=full or recompute=pointwise")

NEMO_RL: Table = {
    "sft.max_num_steps": moved("train.max_steps"),
    "sft.max_num_epochs": moved("train.max_epochs"),
    "sft.seed": moved("train.seed"),
    "sft.val_period": moved("train.validation_interval", lambda value: value or None),
    "sft.*": idle("all held-out documents are computed, at val_period and at the end"),
    "checkpointing.enabled": same(True, because="checkpoints are always saved"),
    "checkpointing.save_optimizer": same(True, because="a run resumes exactly"),
    "checkpointing.save_period": moved("train.save_interval"),
    "checkpointing.keep_top_k": idle("all checkpoints stay; keep_checkpoints=N keeps the newest"),
    "checkpointing.checkpoint_dir": refused("--output_dir says where"),
    "checkpointing.*": idle("all checkpoints stay, and a job saves before its time limit"),
    "policy.model_name": moved("train.model"),
    "policy.tokenizer.*": idle("the tokenizer is that of `prepare`"),
    "policy.train_global_batch_size": _SAMPLES,
    "policy.train_micro_batch_size": same(1, because="a process computes one pack at a time"),
    "policy.max_total_sequence_length": idle("packs know their size"),
    "policy.precision": moved("train.dtype", read_precision),
    "policy.tensor_model_parallel_size": moved("train.tensor_parallel"),
    "policy.context_parallel_size": moved("train.context_parallel"),
    "policy.pipeline_model_parallel_size": same(1, because="there are no pipelines"),
    "policy.sequence_parallel": idle("always on with tensor_parallel"),
    "policy.lr": moved("train.optimizer.lr"),
    "policy.min_lr": moved("train.optimizer.min_lr"),
    "policy.weight_decay": moved("train.optimizer.weight_decay"),
    "policy.max_grad_norm": moved("train.optimizer.clip_norm", _read_clip),
    "policy.make_sequence_length_divisible_by": idle("packs fit every layout of processes"),
    "policy.offload_optimizer_for_logprob": idle("training has no such phase"),
    "policy.dtensor_cfg.tensor_parallel_size": moved("train.tensor_parallel"),
    "policy.dtensor_cfg.context_parallel_size": moved("train.context_parallel"),
    "policy.dtensor_cfg.activation_checkpointing": _RECOMPUTE,
    "policy.dtensor_cfg.cpu_offload": same(False, because="nothing is moved to the host"),
    "policy.dtensor_cfg.lora_cfg.enabled": _OFF,
    "policy.dtensor_cfg.*": _CONFIGURED,
    "policy.megatron_cfg.tensor_model_parallel_size": moved("train.tensor_parallel"),
    "policy.megatron_cfg.context_parallel_size": moved("train.context_parallel"),
    "policy.megatron_cfg.pipeline_model_parallel_size": same(1, because="there are no pipelines"),
    "policy.megatron_cfg.expert_model_parallel_size": same(1, because="experts are not spread"),
    "policy.megatron_cfg.activation_checkpointing": _RECOMPUTE,
    "policy.megatron_cfg.peft.enabled": _OFF,
    "policy.megatron_cfg.optimizer.lr": moved("train.optimizer.lr"),
    "policy.megatron_cfg.optimizer.min_lr": moved("train.optimizer.min_lr"),
    "policy.megatron_cfg.optimizer.weight_decay": moved("train.optimizer.weight_decay"),
    "policy.megatron_cfg.optimizer.adam_beta1": moved("train.optimizer.beta1"),
    "policy.megatron_cfg.optimizer.adam_beta2": moved("train.optimizer.beta2"),
    "policy.megatron_cfg.optimizer.adam_eps": moved("train.optimizer.eps"),
    "policy.megatron_cfg.optimizer.clip_grad": moved("train.optimizer.clip_norm", _read_clip),
    "policy.megatron_cfg.scheduler.lr_decay_style": moved("train.optimizer.schedule"),
    "policy.megatron_cfg.scheduler.lr_warmup_iters": moved("train.optimizer.warmup_steps"),
    "policy.megatron_cfg.*": _CONFIGURED,
    "policy.dynamic_batching.enabled": same(False, because="data is always packed"),
    "policy.dynamic_batching.*": idle("data is always packed"),
    "policy.sequence_packing.enabled": same(True, because="data is always packed"),
    "policy.sequence_packing.*": idle("`pack` has done it"),
    "policy.optimizer.name": same("torch.optim.AdamW", because="AdamW"),
    "policy.optimizer.kwargs.lr": moved("train.optimizer.lr"),
    "policy.optimizer.kwargs.weight_decay": moved("train.optimizer.weight_decay"),
    "policy.optimizer.kwargs.betas": moved("betas", as_list),
    "policy.optimizer.kwargs.eps": moved("train.optimizer.eps"),
    "policy.optimizer.kwargs.foreach": idle("the optimizer is fused where it can be"),
    "policy.optimizer.kwargs.fused": idle("the optimizer is fused where it can be"),
    "policy.scheduler": refused("say optimizer.schedule, optimizer.warmup_steps, optimizer.min_lr"),
    "policy.scheduler.*": refused(
        "say optimizer.schedule, optimizer.warmup_steps, optimizer.min_lr"
    ),
    "data.shuffle": same(True, because="every epoch has an order of its own"),
    "data.add_bos": same(False, because="the chat template writes every special token"),
    "data.add_eos": same(False, because="the chat template writes every special token"),
    "data.*": idle("packs hold tokens"),
    "logger.wandb_enabled": idle("--wandb_project turns it on"),
    "logger.wandb.project": moved("train.wandb.project"),
    "logger.wandb.name": moved("train.wandb.name"),
    "logger.tensorboard_enabled": moved("train.tensorboard"),
    "logger.*": idle("metrics.jsonl is always written"),
    "cluster.gpus_per_node": moved("train.num_processes"),
    "cluster.num_nodes": moved("train.num_nodes"),
}
