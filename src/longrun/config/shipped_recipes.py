"""The recipes inside the package, by name: ``demo``, ``real-small``, ``openmathreasoning/14b``."""

from pathlib import Path

import longrun
from longrun.config.settings import nearest
from longrun.errors import ConfigError

FOLDER = Path(longrun.__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Return the names of all recipes that ship, sorted."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in _files())


def find_recipe(name: str | Path, folder: Path = Path()) -> Path:
    """Return the recipe called ``name``: a file, relative to ``folder``, or one that ships.

    Raises:
        ConfigError: it is neither; the nearest name is given.
    """
    path = folder / name
    shipped = FOLDER / f"{Path(name).as_posix()}.yaml"
    if path.is_file():
        return path
    if shipped in _files():
        return shipped
    known = nearest(Path(name).as_posix(), recipe_names())
    words = "" if path.suffix in {".yaml", ".yml"} else f", nor is it a recipe that ships; {known}"
    raise ConfigError(f"{path}: no such file{words}; name a YAML file")


def _files() -> list[Path]:
    return list(FOLDER.rglob("*.yaml"))
