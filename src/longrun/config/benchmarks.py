"""Benchmarks as settings: a file of problems, what its columns are called, where it comes from.

An entry of a list of benchmarks is a mapping, the name of a known benchmark, or a file::

    benchmarks: [aime24, own/problems.jsonl, {name: tir, path: own/problems.jsonl, mode: tir}]

The known ones are in ``benchmarks.yaml``. Nothing here reads a problem or opens a connection.
"""

import os
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from longrun.config.reading import parse_yaml, read_yaml
from longrun.config.settings import Settings, execution, nearest, source
from longrun.config.values import FolderName, Mode, as_list

CACHE_VARIABLE = "LONGRUN_CACHE"
"""Environment variable with the folder for fetched files; unset: ``~/.cache/longrun``."""
FILE_ENDINGS = (".jsonl", ".parquet")


class HubFile(Settings):
    """One file of a data set on the Hugging Face Hub."""

    dataset: Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")]
    """Name on the Hub."""
    file: Annotated[str, Field(pattern=r"\.(jsonl|parquet)$")]
    """Path inside the data set."""
    revision: str = "main"
    """Branch, tag or commit; only a commit names the same problems for ever."""


class Benchmark(Settings):
    """One set of problems with known answers."""

    name: FolderName
    """What tables call it."""
    path: Path = source()
    """JSONL or Parquet with ``problem`` and ``expected_answer``, optionally ``id`` and ``source``.
    May be left out where ``hub`` says where to get it."""
    mode: Mode = "cot"
    limit: PositiveInt | None = None
    """Use only the first problems; null: all."""
    like: str | None = execution(None)
    """Name of a known benchmark (aime24, aime25, comp-math-24-25, math-500, gsm8k), or a YAML file,
    that gives the settings below."""
    problems: PositiveInt | None = None
    """Problems that the file must hold; null: any number."""
    columns: dict[str, list[str]] = {}
    """Expected column -> columns of the file that may stand for it where it is missing."""
    answer_after: str | None = None
    """The answer is what stands behind the last of these marks, as ``####``; null: all of it."""
    hub: HubFile | None = execution(None)
    """Where the file is fetched from, once, when ``path`` is left out; needs the extra ``hub``."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        if isinstance(values, str | Path):
            values = _named(str(values))
        if not isinstance(values, dict):
            return values
        like = values.get("like")
        known = {} if like is None else known_benchmark(str(like))
        if "path" in values:
            known.pop("hub", None)  # a file that was named is never fetched
        found = {**known, **values}
        if "path" not in found and "name" in found:
            found["path"] = _cached_path(str(found["name"]), found)
        return found


Benchmarks = Annotated[
    list[Benchmark],
    BeforeValidator(as_list, json_schema_input_type=str | Benchmark | list[str | Benchmark]),
    Field(min_length=1),
]


def known_benchmark(name: str) -> dict[str, Any]:
    """Return the settings that a known benchmark, or a YAML file of one, gives.

    Raises:
        ValueError: there is none of that name, or the file is no mapping.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        given = read_yaml(path) if path.is_file() else None
        if not isinstance(given, dict):
            raise ValueError(f"like {name}: is no YAML file with the settings of a benchmark")
        return given
    known = _read_known()
    if name not in known:
        raise ValueError(f"like {name!r}: {nearest(name, list(known))}")
    return dict(known[name])


def cache_folder() -> Path:
    """Return the folder of fetched benchmarks."""
    home = os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "longrun"
    return Path(home) / "benchmarks"


def _read_known() -> dict[str, dict[str, Any]]:
    text = resources.files("longrun.config").joinpath("benchmarks.yaml").read_text()
    known: dict[str, dict[str, Any]] = parse_yaml(text, "benchmarks.yaml")
    return known


def _named(text: str) -> dict[str, Any]:
    """Return the settings that a bare name or a bare file stands for."""
    if text.endswith(FILE_ENDINGS):
        return {"name": Path(text).stem, "path": text}
    known = _read_known()
    if text not in known:
        raise ValueError(
            f"benchmark {text!r} is neither known nor a file in"
            f" {' or '.join(FILE_ENDINGS)}; {nearest(text, list(known))}"
        )
    return {"name": text, "like": text}


def _cached_path(name: str, settings: dict[str, Any]) -> Path:
    if settings.get("hub") is None:
        like = settings.get("like") or name
        raise ValueError(
            f"benchmark {name}: path is required, as in {{name: {name}, like: {like}, path: FILE}};"
            " no place on the Hub is known to fetch it from"
        )
    hub = HubFile.model_validate(settings["hub"])
    version = hub.revision[:12].replace("/", "-")
    return cache_folder() / f"{name}-{version}{Path(hub.file).suffix}"
