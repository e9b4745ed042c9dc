"""The commands of NeMo-Skills as functions, under its names; see ``launch.stage_functions``."""

from longrun.launch.commands import run_cmd, wrap_arguments
from longrun.launch.stage_functions import convert, generate, train
from longrun.launch.stage_functions import generate_and_evaluate as eval

__all__ = ["convert", "eval", "generate", "run_cmd", "train", "wrap_arguments"]
