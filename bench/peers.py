"""Trainers of the transformers family with a meter on every step; shared by both benchmarks."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

BETAS, EPSILON, CLIP_NORM = (0.9, 0.98), 1e-8, 1.0
"""Of every contender's AdamW and clipping."""


class StepMeter(Protocol):
    """What a contender tells about its steps."""

    losses: list[float]

    def start(self) -> None:
        """Begin a step."""

    def stop(self) -> None:
        """End a step."""


def settings_of_trainer(folder: str, *, steps: int, lr: float, bf16: bool) -> dict[str, Any]:
    """Return the ``TrainingArguments`` that make a trainer comparable: nothing but steps."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": 1,
        "max_steps": steps,
        "learning_rate": lr,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "adam_epsilon": EPSILON,
        "max_grad_norm": CLIP_NORM,
        "optim": "adamw_torch_fused",
        "bf16": bf16,
        "gradient_checkpointing": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "train_sampling_strategy": "sequential",
        "dataloader_num_workers": 0,
    }


def train_metered(
    kind: type, meter: StepMeter, model: Any, arguments: Any, data: Any, options: Mapping[str, Any]
) -> None:
    """Train with ``kind``, a trainer of the transformers family, and meter its steps.

    Collating is part of the step. With gradient accumulation the losses are those of the
    micro-steps, already divided by the targets of the whole step.
    """
    from transformers import TrainerCallback

    class Metered(kind):  # type: ignore[misc]  # which class it is depends on the contender
        def training_step(self, *arguments: Any, **more: Any) -> Tensor:
            loss: Tensor = super().training_step(*arguments, **more)
            micro_losses.append(loss.detach())
            return loss

        def get_batch_samples(self, *arguments: Any, **more: Any) -> Any:
            meter.start()
            return super().get_batch_samples(*arguments, **more)

    class Stop(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            meter.losses.append(float(sum(micro_losses)))
            micro_losses.clear()
            meter.stop()

    micro_losses: list[Tensor] = []
    stop = Stop()
    trainer = Metered(model=model, args=arguments, train_dataset=data, callbacks=[stop], **options)
    trainer.train()
