"""The stages of ``eval`` and ``generate`` of the reference.

``eval`` samples and grades: ``--benchmarks gsm8k:4,aime24`` is one greedy solution of every
problem, and four sampled ones of every problem of gsm8k, each graded apart. Its stages:

    generate-greedy -> evaluate-greedy        generate-4 -> evaluate-4
"""

import re
from pathlib import Path
from typing import Any

from longrun.config.benchmarks import FILE_ENDINGS
from longrun.config.nemo_skills.option import nest
from longrun.errors import ConfigError

GENERATIONS, RESULTS = "generations", "eval-results"
"""Folders inside the ``output_dir`` of ``eval``."""
GREEDY = "greedy"
_SAMPLED = {"temperature": 0.7, "top_p": 0.95}
"""What sampled solutions are drawn with where nothing is said."""
_MAX_TOKENS = 2048
_ACROSS_GPUS = {"vllm": "--tensor-parallel-size", "sglang": "--tp"}
"""Engine -> word of its command that spreads a model over GPUs."""


def build_evaluation(moved: dict[str, Any]) -> dict[str, Any]:
    """Return the stages of ``eval``: generate and evaluate, for greedy and sampled solutions."""
    output_dir = Path(str(moved["output_dir"]))
    sets = _sets(moved)
    stages: dict[str, Any] = {}
    for label, (samples, names) in sets.items():
        ending = f"-{label}" if len(sets) > 1 else ""
        folder = output_dir / GENERATIONS / (label if len(sets) > 1 else "")
        written = _generate(moved, f"generate{ending}", folder, samples, names)
        stages |= written
        grade = nest({key: value for key, value in moved.items() if key.startswith("evaluate.")})
        stages[f"evaluate{ending}"] = {
            "verb": "evaluate",
            **grade.get("evaluate", {}),
            "predictions": [stage["output_dir"] for stage in written.values()],
            "output_dir": str(output_dir / RESULTS / (label if len(sets) > 1 else "")),
        }
    return stages


def build_generation(moved: dict[str, Any]) -> dict[str, Any]:
    """Return the stages of ``generate``: one, or one for each chunk."""
    samples = moved.get("samples") or 0
    names = [name for name, _ in moved["benchmarks"]]
    return _generate(moved, "generate", Path(str(moved["output_dir"])), samples, names)


def _sets(moved: dict[str, Any]) -> dict[str, tuple[int, list[Any]]]:
    """Return label -> samples (0: greedy) and benchmarks."""
    asked = moved["benchmarks"]
    sets: dict[str, tuple[int, list[Any]]] = {}
    if not moved.get("skip_greedy"):
        sets[GREEDY] = (0, [name for name, _ in asked])
    for name, samples in asked:
        if samples:
            sets.setdefault(str(samples), (samples, []))[1].append(name)
    if not sets:
        raise ConfigError(
            "eval: --skip_greedy leaves nothing to do; say how many samples, as in"
            " --benchmarks=gsm8k:4"
        )
    return sets


def _generate(
    moved: dict[str, Any], stage: str, folder: Path, samples: int, names: list[Any]
) -> dict[str, Any]:
    own = nest({place: value for place, value in moved.items() if place.startswith("generate.")})
    section = {
        "verb": "generate",
        "max_tokens": _MAX_TOKENS,
        **_sampling(moved, samples),
        **own.get("generate", {}),
        **_server(moved),
        "models": {_label(moved["model"]): str(moved["model"])},
        "benchmarks": [_benchmark(name, moved) for name in names],
        "output_dir": str(folder),
    }
    chunks = 1 if moved.get("chunks") is None else moved["chunks"]
    if type(chunks) is not int or chunks < 1:
        raise ConfigError(f"--num_chunks={chunks}: must be a number of 1 or more")
    if chunks == 1:
        return {stage: section}
    return {
        f"{stage}-{number}-of-{chunks}": {
            **section,
            "chunk": f"{number}/{chunks}",
            "output_dir": str(folder / f"chunk-{number}-of-{chunks}"),
        }
        for number in range(1, chunks + 1)
    }


def _sampling(moved: dict[str, Any], samples: int) -> dict[str, Any]:
    if not samples:
        return {"samples": 1, "temperature": 0.0}
    asked = {key: moved[key] for key in _SAMPLED if key in moved}
    return {"samples": samples, **_SAMPLED, **asked}


def _server(moved: dict[str, Any]) -> dict[str, Any]:
    engine = moved.get("engine", "built-in")
    if "generate.endpoint.url" in moved:
        engine = "endpoint"
    words = list(moved.get("arguments", []))
    gpus = moved.get("gpus") or 1
    if engine in _ACROSS_GPUS and gpus != 1 and _ACROSS_GPUS[engine] not in words:
        words += [_ACROSS_GPUS[engine], str(gpus)]
    started = engine in _ACROSS_GPUS
    return {"engine": engine, **({"server": {"arguments": words}} if started and words else {})}


def _benchmark(name: Any, moved: dict[str, Any]) -> Any:
    more = {key: moved[key] for key in ("mode", "limit") if moved.get(key) is not None}
    if isinstance(name, dict):
        return {**more, **name}
    if not more:
        return name
    if name.endswith(FILE_ENDINGS):
        return {"name": Path(name).stem, "path": name, **more}
    return {"name": name, "like": name, **more}


def _label(model: Any) -> str:
    """Return what tables call a model: the name of its folder."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", Path(str(model)).name).lstrip(".") or "model"
