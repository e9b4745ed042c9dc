"""What every stage's settings share: strictness, paths, identity and a file form.

Unknown settings stop the program and the nearest known name is given. ``output_dir`` and the
fields marked ``execution()`` say where and how fast, not what; they are not part of the identity.
"""

import os
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from longrun.config.bounds import check_value, refuse_booleans, takes_booleans
from longrun.config.plain_yaml import dump_yaml
from longrun.errors import ConfigError

_MODEL_CONFIG = "config.json"
MODEL_NAME = "model"
"""Folder of the model that an average or a conversion made."""
_REASONS = {
    "path_type": "must be a path; one that reads as a number is written with ./ in front",
    "string_type": "must be text; what reads as a number is written in quotes",
}
"""Kind of pydantic's error -> a reason with its remedy, where pydantic gives none."""
FINAL_NAME = "final"
"""Folder of a training that holds its exported model, with tokenizer and conversation."""


def execution(default: Any, **bounds: Any) -> Any:
    """Field that changes how fast a stage runs but not what it makes."""
    return Field(default=default, json_schema_extra={"execution": True}, **bounds)


def source(default: Any = ..., *, unread: Sequence[str] = (), **bounds: Any) -> Any:
    """Field that names files the stage reads: known by their content, not by their path.

    ``unread``: patterns of files in the folder of another stage that this one leaves alone.
    """
    return _source(default, {"source": True, "unread": list(unread)}, bounds)


def model_source(default: Any = ..., *, unread: Sequence[str] = (), **bounds: Any) -> Any:
    """Field that names model folders, or output folders of stages that made a model."""
    return _source(default, {"source": True, "model": True, "unread": list(unread)}, bounds)


def _source(default: Any, marks: dict[str, Any], bounds: dict[str, Any]) -> Any:
    return Field(default=default, json_schema_extra=marks, **bounds)


def find_model(folder: Path) -> Path:
    """Return the model folder that ``folder`` is, or that lies in it: that of a stage's output."""
    inside = (folder / name for name in (MODEL_NAME, FINAL_NAME))
    places = (place for place in (folder, *inside) if (place / _MODEL_CONFIG).is_file())
    return next(places, folder)


class Settings(BaseModel):
    """Strict, frozen settings; a docstring under a field is its description in the schema."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    @field_validator("*", mode="wrap")
    @classmethod
    def _can_be_kept(
        cls, value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        if not takes_booleans(cls.model_fields[str(info.field_name)].annotation):
            refuse_booleans(value)
        checked = validate(value)
        check_value(checked)
        return checked

    @classmethod
    def parse(cls, values: dict[str, Any], where: str) -> Self:
        """Validate ``values``; ``where`` (a file, a stage) leads every message.

        Raises:
            ConfigError: one line naming the field, the value, the bound and the nearest name.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_explain(cls, error.errors()[0], where)) from None
        except RecursionError:
            raise ConfigError(f"{where}: is nested too deep; make it simpler") from None


class StageConfig(Settings):
    """Settings of one stage."""

    output_revision: ClassVar[int] = 1
    """Raised by the stage when the same settings and inputs give other output than before: what
    was made is then stale. Any other change of the program leaves finished stages as they are."""

    another: ClassVar[str] = "Name another output_dir"
    """What to do to have other output beside what was made."""

    verifies_anew: ClassVar[bool] = False
    """Whether the stage compares its inputs with their checksums even if they were found whole."""

    output_dir: Path
    """Folder that the stage fills; created when missing."""

    def located(self) -> Self:
        """Return the settings with the model folders that output folders of stages stand for.

        For a stage that starts: what it reads is there by then.
        """
        named = [
            name for name, info in type(self).model_fields.items() if _marks(info).get("model")
        ]
        return self.model_copy(update={name: _located(getattr(self, name)) for name in named})

    def inputs(self) -> dict[str, list[Path]]:
        """Every path that the stage reads, by dotted field name; globs are expanded, sorted."""
        return {name: paths for name, paths in _sources(self, "") if paths}

    def unread(self, name: str) -> list[str]:
        """Return patterns of files that the stage leaves alone in the input ``name``."""
        info = type(self).model_fields.get(name.partition(".")[0])
        found: list[str] = _marks(info).get("unread", []) if info else []
        return found

    def identity(self) -> dict[str, Any]:
        """The settings that decide the output: no ``output_dir``, speed settings or paths."""
        decisive: dict[str, Any] = _decisive(self)
        del decisive["output_dir"]
        return decisive

    def save(self, path: Path) -> None:
        """Write the resolved settings as YAML; the file is itself a valid input."""
        # Written plainly: this file describes the stage and is rewritten on every start.
        path.write_text(dump_yaml(self.model_dump(mode="json")))


def nearest(name: str, known: Iterator[str] | list[str]) -> str:
    """Say which known name ``name`` may have meant, or list them.

    >>> nearest("pack_sise", ["pack_size", "seed"])
    'did you mean pack_size?'
    """
    names = list(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(names))}"


def expand(pattern: Path) -> list[Path]:
    """Expand a glob pattern to sorted paths; a plain path, or one that exists, to itself.

    A folder that exists is that folder, whatever signs are in its name: in ``data[1]/*.jsonl`` only
    the name of the file is a pattern.
    """
    whole = [pattern, *pattern.parents]
    anchor = next((path for path in whole if os.path.lexists(path)), Path(pattern.anchor))
    rest = str(pattern.relative_to(anchor))
    if anchor == pattern or not any(sign in rest for sign in "*?["):
        return [pattern]
    return sorted(anchor.glob(rest))


def _located(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: find_model(folder) for key, folder in value.items()}
    return None if value is None else find_model(value)


def _marks(info: FieldInfo) -> dict[str, Any]:
    return info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}


def _sources(value: Any, name: str) -> Iterator[tuple[str, list[Path]]]:
    """Walk settings and yield ``(dotted name, paths)`` of every field marked as a source."""
    if isinstance(value, Settings):
        for key, info in type(value).model_fields.items():
            inside = getattr(value, key)
            dotted = f"{name}.{key}" if name else key
            if _marks(info).get("model"):
                for place, paths in _paths(inside, dotted):
                    yield place, [find_model(path) for path in paths]
            elif _marks(info).get("source"):
                yield from _paths(inside, dotted)
            else:
                yield from _sources(inside, dotted)
    elif isinstance(value, dict):
        for key, inside in value.items():
            yield from _sources(inside, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for index, inside in enumerate(value):
            yield from _sources(inside, f"{name}.{index}")


def _paths(value: Any, name: str) -> Iterator[tuple[str, list[Path]]]:
    if isinstance(value, dict):
        for key, inside in value.items():
            yield from _paths(inside, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        yield name, [path for inside in value for path in expand(inside)]
    elif value is not None:
        yield name, expand(value)


def _decisive(value: Any) -> Any:
    """Dump settings to JSON values without the fields marked as source or execution."""
    if isinstance(value, Settings):
        return {
            key: _decisive(getattr(value, key))
            for key, info in type(value).model_fields.items()
            if not _marks(info)
        }
    if isinstance(value, dict):
        return {str(key): _decisive(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_decisive(inside) for inside in value]
    return str(value) if isinstance(value, Path) else value


def _explain(model: type[BaseModel], error: ErrorDetails, where: str) -> str:
    location = ".".join(str(part) for part in error["loc"])
    name = f"{where}.{location}" if location else where
    if error["type"] == "extra_forbidden":
        return f"{name}: unknown setting; {nearest(str(error['loc'][-1]), _siblings(model, error))}"
    if error["type"] == "missing":
        return f"{name}: is required; set it in the recipe or as {location}=VALUE"
    reason = _REASONS.get(error["type"], error["msg"].removeprefix("Value error, "))
    return f"{name}: {reason} (got {error['input']!r:.80})"


def _siblings(model: type[BaseModel], error: ErrorDetails) -> list[str]:
    current: Any = model
    for part in error["loc"][:-1]:
        fields = getattr(current, "model_fields", {})
        if part in fields:
            current = _model_in(fields[part].annotation)
    return list(getattr(current, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inside in getattr(annotation, "__args__", ()):
        found = _model_in(inside)
        if found is not None:
            return found
    return None
