"""The commands of NeMo-Skills as functions, under its names; see ``longrun.launch.verbs``."""

from longrun.launch.commands import run_cmd, wrap_arguments
from longrun.launch.verbs import convert, generate, train
from longrun.launch.verbs import generate_and_evaluate as eval

__all__ = ["convert", "eval", "generate", "run_cmd", "train", "wrap_arguments"]
