"""Command of the reference -> its options, and the stages that it becomes."""

from collections.abc import Callable, Mapping
from difflib import SequenceMatcher
from typing import Any

from longrun.config.nemo_skills.conversion import CONVERT, build_conversion
from longrun.config.nemo_skills.evaluation import EVAL, GENERATE
from longrun.config.nemo_skills.option import EVERYWHERE, Option, Table, find_option, written
from longrun.config.nemo_skills.packing import MERGE, PACK, build_merge, build_packing
from longrun.config.nemo_skills.sampling import build_evaluation, build_generation
from longrun.config.nemo_skills.training import TRAIN, build_training, complete_training
from longrun.config.reading import merge_trees
from longrun.errors import ConfigError

EVAL_VERB = "eval"
"""A command of the reference that is no stage of its own: generate, then evaluate."""
OPTIONS: Mapping[str, Table] = {
    "train": TRAIN,
    "pack": PACK,
    "merge": MERGE,
    "convert": CONVERT,
    "generate": GENERATE,
    EVAL_VERB: EVAL,
    "run_cmd": EVERYWHERE,
}
"""Command -> name of an option, without dashes and plus signs -> what it becomes."""
NAMES: Mapping[str, str] = {"convert": "conversion"}
"""Command -> name of its experiment where none is given; others are called as the command."""
_REQUIRED = {
    "train": ("output_dir", "train.model", "train.packs"),
    "pack": ("output_dir", "prepare.data", "prepare.tokenizer"),
    "merge": ("prefixes", "prefix"),
    "convert": ("convert.model", "convert.output_dir"),
    "generate": ("output_dir", "model", "benchmarks"),
    EVAL_VERB: ("output_dir", "model", "benchmarks"),
}
_BUILD: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "train": build_training,
    "pack": build_packing,
    "merge": build_merge,
    "convert": build_conversion,
    "generate": build_generation,
    EVAL_VERB: build_evaluation,
}
_COMPLETE: Mapping[str, Callable[[dict[str, Any]], None]] = {"train": complete_training}
_SIMILAR = 0.75


def stages_of(
    verb: str, moved: dict[str, Any], settings: Mapping[str, Any], *, train: bool = True
) -> dict[str, Any]:
    """Build the stages of a command from ``moved``: place -> value, as the table names places.

    ``settings`` are Longrun's own and win; ``train`` False: only average what is there.

    Raises:
        ConfigError: an option is missing, or two of them disagree.
    """
    for place in _REQUIRED[verb]:
        if place not in moved and (train or not place.startswith("train.")):
            name, option = next(item for item in OPTIONS[verb].items() if item[1].to == place)
            raise ConfigError(
                f"{verb}: {written(name, option)} is required with the other options given"
            )
    stages = _lay_over(_BUILD[verb](moved), verb, settings)
    if verb in _COMPLETE:
        _COMPLETE[verb](stages[verb])
    if not train:
        del stages["train"]
    return stages


def explain_unknown(verb: str, word: str) -> str:
    """Say which option ``word`` may have meant, by the last part of its name; or where to look."""
    name = option_name(word)
    last = name.rpartition(".")[2]
    near = [
        (_alike(last, one.rpartition(".")[2]), _alike(name, one), written(one, option))
        for one, option in OPTIONS.get(verb, {}).items()
        if not one.endswith("*")
    ]
    close = max(near, default=(0.0, 0.0, ""))
    if close[0] >= _SIMILAR:
        return f"did you mean {close[2]}?"
    if verb == "evaluate" and find_option(EVAL, name):
        return "it is an option of `longrun eval`, which generates and evaluates"
    return f"see `longrun {verb} --help` for what there is; settings are name=value"


def explain_options(verb: str) -> list[str]:
    """Return a line of help for every option of the reference that ``verb`` takes."""
    return [
        f"  {written(name, option)}: {_meaning(option)}"
        for name, option in OPTIONS.get(verb, {}).items()
    ]


def option_name(word: str) -> str:
    """Return the name of an option as the tables have it, from ``--dry-run=true`` and the like.

    >>> [option_name(word) for word in ("--num-nodes=2", "++model.optim.lr=1e-4", "--tp")]
    ['num_nodes', 'model.optim.lr', 'tp']
    """
    return word.partition("=")[0].lstrip("+-").replace("-", "_")


def _meaning(option: Option) -> str:
    if option.never:
        return f"not here: {option.because}"
    if option.values:
        return f"only {' or '.join(map(str, option.values))}: {option.because}"
    if option.because:
        return f"no effect: {option.because}"
    return option.to if "." in option.to else "as there"


def _lay_over(stages: dict[str, Any], verb: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Lay settings over stages: those under the name or verb of stages, others over the main one.

    The main stage is the command's own; of ``eval``, what generates.
    """
    verbs = {name: section.get("verb", name) for name, section in stages.items()}
    main = "generate" if verb == EVAL_VERB else verb
    for name, value in settings.items():
        named = [stage for stage in stages if name in (stage, verbs[stage])]
        over = value if named and isinstance(value, dict) else {name: value}
        chosen = named if over is value else [stage for stage in stages if verbs[stage] == main]
        for stage in chosen:
            stages[stage] = merge_trees(stages[stage], over)
    return stages


def _alike(name: str, other: str) -> float:
    return SequenceMatcher(None, name, other).ratio()
