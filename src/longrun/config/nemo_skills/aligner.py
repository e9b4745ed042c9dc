"""The keys of the training file of NeMo-Skills, which is that of NeMo-Aligner."""

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


def read_packs(value: Any) -> str:
    """Return the folder of packs: the name without ``.npy``; the file itself never existed."""
    if str(value).endswith((".jsonl", ".json", ".parquet")):
        raise ValueError(
            "are records; make packs of them with `longrun pack"
            f" ++model.data.train_ds.file_names=[{value}] ++tokenizer_path=... ++pack_sizes=[...]"
            " ++output_dir=...` and name packed_SIZE_seed0 of that folder"
        )
    return str(value).removesuffix(".npy")


def _read_recompute(value: Any) -> str:
    known = {"full": "full", "selective": "pointwise", "None": "none"}
    if str(value) not in known:
        raise ValueError("is not full, selective or null")
    return known[str(value)]


def _read_bound(value: Any) -> Any:
    """-1 is no bound."""
    return None if value == -1 else value


_OWN_FORMAT = idle("checkpoints have a format of their own, for any layout of processes")
_FUSED = idle("kernels are chosen by `attention` and `compile`")
_PACKS_KNOW = idle("packs know their size")
_MAPPED = idle("packs are read by memory map")
_CUT = idle("documents that are too long are dropped and counted, never cut")
_NO_DROPOUT = same(0, None, because="there is no dropout")
_NO_MARKS = same(
    False,
    because="the chat template writes every special token",
    instead="`prepare.chat_template` decides",
)
_LAYERS = idle("`recompute` is for every layer")

TRAINER: Table = {
    "name": idle("--expname names it", plus=True),
    "hydra.*": idle("there is no Hydra"),
    "trainer.num_nodes": moved("train.num_nodes"),
    "trainer.devices": moved("train.num_processes"),
    "trainer.accelerator": idle("GPUs are used where there are any"),
    "trainer.precision": moved("train.dtype", read_precision),
    "trainer.sft.save_interval": moved("train.save_interval"),
    "trainer.sft.max_steps": moved("train.max_steps", _read_bound),
    "trainer.sft.max_epochs": moved("train.max_epochs"),
    "trainer.max_steps": moved("train.max_steps", _read_bound),
    "trainer.max_epochs": moved("train.max_epochs"),
    "trainer.sft.val_check_interval": moved("train.validation_interval"),
    "trainer.val_check_interval": moved("train.validation_interval"),
    "trainer.sft.limit_val_batches": idle("all held-out documents are computed"),
    "trainer.limit_val_batches": idle("all held-out documents are computed"),
    "trainer.sft.gradient_clip_val": moved("train.optimizer.clip_norm"),
    "trainer.gradient_clip_val": moved("train.optimizer.clip_norm"),
    "trainer.sft.limit_train_batches": same(
        1.0, because="all packs are used", instead="bound it by ++trainer.sft.max_steps"
    ),
    "trainer.sft.num_checkpoints_to_save": refused("say ++trainer.sft.save_interval"),
    "trainer.sft.inference_metrics.*": refused("`longrun eval` measures afterwards"),
    "trainer.logger": same(False, because="metrics.jsonl is always written"),
    "trainer.enable_checkpointing": same(False, because="checkpoints are our own"),
    "trainer.use_distributed_sampler": same(False, because="batches are dealt by our own rule"),
    "trainer.max_time": same(
        None, because="jobs end at the cluster's limit", instead="say --time_limit"
    ),
    "trainer.log_every_n_steps": moved("train.log_interval"),
    "trainer.accumulate_grad_batches": same(
        1, because="a step has ++model.data.train_ds.global_batch_size packs"
    ),
    "exp_manager.explicit_log_dir": refused("--output_dir and --log_dir say where"),
    "exp_manager.exp_dir": refused("--output_dir says where"),
    "exp_manager.create_wandb_logger": idle("--wandb_project turns it on"),
    "exp_manager.create_tensorboard_logger": moved("train.tensorboard"),
    "exp_manager.wandb_logger_kwargs.project": moved("train.wandb.project"),
    "exp_manager.wandb_logger_kwargs.name": moved("train.wandb.name"),
    "exp_manager.resume_if_exists": same(
        True,
        because="the same command continues a training run",
        instead="a new run takes a new --output_dir",
    ),
    "exp_manager.create_early_stopping_callback": same(
        False, because="a training run goes to its last step"
    ),
    "exp_manager.checkpoint_callback_params.save_top_k": idle(
        "all checkpoints stay; keep_checkpoints=N keeps the newest"
    ),
    "exp_manager.checkpoint_callback_params.save_best_model": same(
        False, because="the last model is exported", instead="choose by --average_steps"
    ),
    "exp_manager.max_time_per_run": idle("a job saves before the time limit of the cluster"),
    "exp_manager.*": idle("names and places of files are fixed, and a run always resumes"),
}
"""Keys about the course of training, its logs and checkpoints."""

MODEL: Table = {
    "model.seed": moved("train.seed"),
    "model.precision": moved("train.dtype", read_precision),
    "model.restore_from_path": moved("train.model"),
    "model.resume_from_checkpoint": same(
        None, because="a run continues in its own --output_dir", instead="repeat its command"
    ),
    "model.save_nemo_on_validation_end": idle("the last model and the average are exported"),
    "model.tensor_model_parallel_size": moved("train.tensor_parallel"),
    "model.context_parallel_size": moved("train.context_parallel"),
    "model.pipeline_model_parallel_size": same(
        1, because="there are no pipelines", instead="use tensor_parallel and sharding=full"
    ),
    "model.virtual_pipeline_model_parallel_size": same(None, 1, because="there are no pipelines"),
    "model.expert_model_parallel_size": same(1, because="experts are not spread"),
    "model.sequence_parallel": idle("always on with tensor_parallel"),
    "model.encoder_seq_length": _PACKS_KNOW,
    "model.rotary_base": moved("train.context.rope_theta"),
    "model.max_position_embeddings": moved("train.context.max_positions"),
    "model.seq_len_interpolation_factor": same(
        None, because="positions are the model's", instead="say context.yarn_factor"
    ),
    "model.dist_ckpt_format": _OWN_FORMAT,
    "model.megatron_amp_O2": idle("weights and moments are float32 beside trainer.precision"),
    "model.mcore_gpt": same(True, because="there is one implementation of each model"),
    "model.fp8": same(False, because="bfloat16 or float32", instead="say ++trainer.precision"),
    "model.sync_batch_comm": _FUSED,
    "model.gradient_as_bucket_view": _FUSED,
    "model.use_flash_attention": _FUSED,
    "model.transformer_engine": _FUSED,
    "model.apply_rope_fusion": _FUSED,
    "model.bias_activation_fusion": _FUSED,
    "model.bias_dropout_add_fusion": _FUSED,
    "model.masked_softmax_fusion": _FUSED,
    "model.gradient_accumulation_fusion": _FUSED,
    "model.ub_tp_comm_overlap": _FUSED,
    "model.activations_checkpoint_granularity": moved("train.recompute", _read_recompute),
    "model.activations_checkpoint_method": _LAYERS,
    "model.activations_checkpoint_num_layers": _LAYERS,
    "model.activations_checkpoint_layers_per_pipeline": _LAYERS,
    "model.answer_only_loss": same(
        True, because="prompts carry no loss", instead="the loss of prompts cannot be had"
    ),
    "model.hidden_dropout": _NO_DROPOUT,
    "model.attention_dropout": _NO_DROPOUT,
    "model.ffn_dropout": _NO_DROPOUT,
    "model.peft.peft_scheme": same(
        "none", None, because="all weights are trained", instead="adapters are not here"
    ),
    "model.peft.*": idle("all weights are trained"),
    "model.fsdp": same(False, because="`sharding` says it", instead="say sharding=full"),
    "model.fsdp_sharding_strategy": idle("`sharding` says it"),
    "model.fsdp_grad_reduce_dtype": idle("gradients are summed in float32"),
    "model.fsdp_sharded_checkpoint": _OWN_FORMAT,
    "model.fsdp_use_orig_params": idle("`sharding` says it"),
    "model.tokenizer.*": idle("the tokenizer is that of `prepare`"),
    "model.inference.*": idle("training writes no text"),
    "model.steerlm.*": refused("attributes are not here"),
    "model.share_embeddings_and_output_weights": idle("the model's config.json says it"),
    "model.global_batch_size": moved("train.global_batch_size"),
    "model.micro_batch_size": same(1, because="a process computes one pack at a time"),
}
"""Keys about the model and how it is spread."""

DATA: Table = {
    "model.data.chat": same(
        False, because="packs hold tokens", instead="`prepare` writes conversations"
    ),
    "model.data.system_token": idle("packs hold tokens"),
    "model.data.chat_prompt_tokens.*": idle("packs hold tokens"),
    "model.data.sample": same(False, because="every pack is used once in an epoch"),
    "model.data.num_workers": _MAPPED,
    "model.data.dataloader_type": same("single", because="one order for all processes"),
    "model.data.train_ds.file_path": moved("train.packs", read_packs),
    "model.data.train_ds.file_names": refused("--training_data names the packs"),
    "model.data.train_ds.max_seq_length": _PACKS_KNOW,
    "model.data.train_ds.min_seq_length": same(
        0, 1, because="no document is too short", instead="filter by response_tokens in `prepare`"
    ),
    "model.data.train_ds.micro_batch_size": same(
        1,
        because="a process computes one pack at a time",
        instead="++model.data.train_ds.global_batch_size alone decides the result",
    ),
    "model.data.train_ds.global_batch_size": moved("train.global_batch_size"),
    "model.data.train_ds.packed_sequence": same(True, because="data is always packed"),
    "model.data.train_ds.packed_sequence_return_cu_seqlen": idle("documents never see each other"),
    "model.data.train_ds.num_workers": _MAPPED,
    "model.data.train_ds.memmap_workers": _MAPPED,
    "model.data.train_ds.pin_memory": _MAPPED,
    "model.data.train_ds.index_mapping_dir": _MAPPED,
    "model.data.train_ds.hf_dataset": idle("files are streamed"),
    "model.data.train_ds.shuffle": same(True, because="every epoch has an order of its own"),
    "model.data.train_ds.seed": moved("train.seed"),
    "model.data.train_ds.drop_last": same(
        True, because="packs that fill no batch wait for the next epoch's order"
    ),
    "model.data.train_ds.label_key": same(
        "output", because="that is the column", instead="map columns in `prepare.data`"
    ),
    "model.data.train_ds.add_eos": _NO_MARKS,
    "model.data.train_ds.add_sep": _NO_MARKS,
    "model.data.train_ds.add_bos": _NO_MARKS,
    "model.data.train_ds.truncation_field": _CUT,
    "model.data.train_ds.truncation_method": _CUT,
    "model.data.train_ds.prompt_template": same(
        "{input}{output}",
        because="input and output are joined as they are",
        instead="put what stands between them into the input",
    ),
    "model.data.train_ds.concat_sampling_probabilities": same(
        None, because="all records are used", instead="draw them before `prepare`"
    ),
    "model.data.train_ds.global_sample_mapping": idle("every epoch has an order of its own"),
    "model.data.train_ds.output_original_text": idle("training writes no text"),
    "model.data.validation_ds.*": idle("packs hold the validation documents of `prepare`"),
    "model.data.test_ds.*": idle("`longrun eval` measures afterwards"),
}
"""Keys about the data."""

_OVERLAP = idle("gradients are reduced while they are computed")
OPTIMIZER: Table = {
    "model.optim.name": same(
        "distributed_fused_adam",
        "fused_adam",
        "adamw",
        because="AdamW, its states sharded",
        instead="or say optimizer.name=muon",
    ),
    "model.optim.lr": moved("train.optimizer.lr"),
    "model.optim.weight_decay": moved("train.optimizer.weight_decay"),
    "model.optim.betas": moved("betas", as_list),
    "model.optim.eps": moved("train.optimizer.eps"),
    "model.optim.sched.name": same(
        "CosineAnnealing",
        because="cosine is the default",
        instead="say optimizer.schedule=linear or constant",
    ),
    "model.optim.sched.min_lr": moved("train.optimizer.min_lr"),
    "model.optim.sched.warmup_steps": moved("train.optimizer.warmup_steps"),
    "model.optim.sched.warmup_ratio": refused("say ++model.optim.sched.warmup_steps"),
    "model.optim.sched.constant_steps": same(
        0, because="min_lr is reached one step after the last"
    ),
    "model.optim.sched.max_steps": idle("the schedule ends with the training run"),
    "model.optim.sched.monitor": idle("the schedule follows the steps alone"),
    "model.optim.sched.reduce_on_plateau": same(
        False, because="the schedule follows the steps alone"
    ),
    "model.optim.bucket_cap_mb": _OVERLAP,
    "model.optim.overlap_grad_sync": _OVERLAP,
    "model.optim.overlap_param_sync": _OVERLAP,
    "model.optim.contiguous_grad_buffer": _OVERLAP,
    "model.optim.contiguous_param_buffer": _OVERLAP,
    "model.optim.grad_sync_dtype": idle("gradients are summed in float32"),
}
"""Keys about the optimizer."""
