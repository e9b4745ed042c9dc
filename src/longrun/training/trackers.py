"""TensorBoard and Weights & Biases: where the numbers of ``metrics.jsonl`` are shown besides it.

Both are optional packages and are imported when a training asks for them. What a training that
continues had written after its checkpoint is written again: TensorBoard hides the old points,
Weights & Biases continues the run of the same id. The key of Weights & Biases comes from its own
environment variable or login, never from a setting.
"""

import importlib.util
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from longrun.config.training import TrainConfig
from longrun.errors import ConfigError
from longrun.formats.stages.atomic import write_text

TENSORBOARD_NAME = "tensorboard"
WANDB_NAME = "wandb"
WANDB_ID_NAME = "wandb-id"


class Tracker(Protocol):
    """Something that shows numbers by step."""

    def show(self, step: int, numbers: Mapping[str, float]) -> None:
        """Show ``numbers`` of ``step``, which counts from 1."""

    def close(self) -> None:
        """Hand over what is left."""


def check_trackers(config: TrainConfig) -> None:
    """Check that the packages of the trackers that ``config`` names are installed.

    Raises:
        ConfigError: one is not; the remedy is named.
    """
    wanted = {"tensorboard": config.tensorboard, "wandb": config.wandb is not None}
    for package, wants in wanted.items():
        if wants and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"train.{package}: the package {package} is not installed;"
                f" python -m pip install {package}"
            )


def open_trackers(config: TrainConfig, resumed_step: int) -> list[Tracker]:
    """Open the trackers that ``config`` names, after ``resumed_step`` finished steps."""
    trackers: list[Tracker] = []
    if config.tensorboard:
        trackers.append(_TensorBoard(config.output_dir / TENSORBOARD_NAME, resumed_step))
    if config.wandb is not None:
        trackers.append(_Wandb(config))
    return trackers


class _TensorBoard:
    def __init__(self, folder: Path, resumed_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = resumed_step + 1 if resumed_step else None
        self._writer = SummaryWriter(folder, purge_step=purge)

    def show(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, config: TrainConfig) -> None:
        import wandb

        settings = config.wandb
        if settings is None:
            raise ValueError("no settings of Weights & Biases")
        self._run: Any = wandb.init(
            project=settings.project,
            name=settings.name,
            id=_run_id(config.output_dir / WANDB_ID_NAME),
            resume="allow",
            mode="offline" if settings.offline else "online",
            dir=config.output_dir,
            config=config.model_dump(mode="json"),
        )

    def show(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


def _run_id(path: Path) -> str:
    """Return the id of this training's run; made at its first start."""
    if not path.exists():
        write_text(path, secrets.token_hex(8))
    return path.read_text()
