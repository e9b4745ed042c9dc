"""Longrun: from raw worked solutions to an evaluated Hugging Face model.

Every stage is a function here, beside the class of its settings; ``longrun.launch.stage_functions``
says how they are called.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longrun.config.convert import ConvertConfig as ConvertConfig
    from longrun.config.convert import ConvertPacksConfig as ConvertPacksConfig
    from longrun.config.evaluation import CheckContaminationConfig as CheckContaminationConfig
    from longrun.config.evaluation import EvaluateConfig as EvaluateConfig
    from longrun.config.evaluation import GenerateConfig as GenerateConfig
    from longrun.config.evaluation import GroupCandidatesConfig as GroupCandidatesConfig
    from longrun.config.stages import FetchConfig as FetchConfig
    from longrun.config.stages import InitModelConfig as InitModelConfig
    from longrun.config.stages import MergeConfig as MergeConfig
    from longrun.config.stages import PackConfig as PackConfig
    from longrun.config.stages import PrepareConfig as PrepareConfig
    from longrun.config.stages import ReportConfig as ReportConfig
    from longrun.config.stages import SynthesizeConfig as SynthesizeConfig
    from longrun.config.stages import TrainTokenizerConfig as TrainTokenizerConfig
    from longrun.config.training import AverageConfig as AverageConfig
    from longrun.config.training import TrainConfig as TrainConfig
    from longrun.config.training import VerifyConfig as VerifyConfig
    from longrun.data.records.prompt_templates import get_prompt as get_prompt
    from longrun.launch.commands import run_cmd as run_cmd
    from longrun.launch.commands import wrap_arguments as wrap_arguments
    from longrun.launch.stage_functions import average as average
    from longrun.launch.stage_functions import check_contamination as check_contamination
    from longrun.launch.stage_functions import convert as convert
    from longrun.launch.stage_functions import convert_packs as convert_packs
    from longrun.launch.stage_functions import evaluate as evaluate
    from longrun.launch.stage_functions import fetch as fetch
    from longrun.launch.stage_functions import generate as generate
    from longrun.launch.stage_functions import group_candidates as group_candidates
    from longrun.launch.stage_functions import init_model as init_model
    from longrun.launch.stage_functions import merge as merge
    from longrun.launch.stage_functions import pack as pack
    from longrun.launch.stage_functions import prepare as prepare
    from longrun.launch.stage_functions import synthesize as synthesize
    from longrun.launch.stage_functions import train as train
    from longrun.launch.stage_functions import train_tokenizer as train_tokenizer
    from longrun.launch.stage_functions import verify as verify
    from longrun.launch.stage_functions import write_report as write_report

__version__ = "0.1.0"
_INTERFACE = {
    "longrun.launch.commands": ("run_cmd", "wrap_arguments"),
    "longrun.launch.stage_functions": (
        "average",
        "check_contamination",
        "convert",
        "convert_packs",
        "evaluate",
        "fetch",
        "generate",
        "group_candidates",
        "init_model",
        "merge",
        "pack",
        "prepare",
        "synthesize",
        "train",
        "train_tokenizer",
        "verify",
        "write_report",
    ),
    "longrun.data.records.prompt_templates": ("get_prompt",),
    "longrun.config.convert": ("ConvertConfig", "ConvertPacksConfig"),
    "longrun.config.evaluation": (
        "CheckContaminationConfig",
        "EvaluateConfig",
        "GenerateConfig",
        "GroupCandidatesConfig",
    ),
    "longrun.config.stages": (
        "FetchConfig",
        "InitModelConfig",
        "MergeConfig",
        "PackConfig",
        "PrepareConfig",
        "ReportConfig",
        "SynthesizeConfig",
        "TrainTokenizerConfig",
    ),
    "longrun.config.training": (
        "AverageConfig",
        "TrainConfig",
        "VerifyConfig",
    ),
}
"""Module -> its names. Imported when used: `import longrun` alone stays free of everything."""
_MODULES = {name: module for module, names in _INTERFACE.items() for name in names}
__all__ = list(_MODULES)

if not TYPE_CHECKING:  # a type checker would take any name for a function

    def __getattr__(name: str) -> object:
        """Import a name of the Python interface when it is used first."""
        if name in _MODULES:
            return getattr(import_module(_MODULES[name]), name)
        raise AttributeError(f"module 'longrun' has no attribute {name!r}")

    def __dir__() -> list[str]:
        """Name the interface, for editors and ``dir(longrun)``."""
        return sorted([*globals(), *_MODULES])
