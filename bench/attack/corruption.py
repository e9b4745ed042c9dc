"""Flip a bit of, or cut, every kind of file of a finished run, and use it.

``python bench/attack/corruption.py [CASES] [SEED]`` makes the tiny run in a temporary folder and
prints a table by outcome. A case spoils one file, runs the stage that reads it into a new folder,
runs the stage that made it once more, and puts the file back. What no stage reads is compared with
its checksum instead, as ``longrun inspect --check`` does:

    named      one of the two refused it with one line
    no effect  nothing was said, and what was made is what the whole file gives
    silent     nothing was said, and something else was made
    traceback  an exception that is not one of Longrun's own
"""

import logging
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from attack.tiny import build, run_stage
from longrun.config.recipe import Recipe, StagePlan
from longrun.errors import LongrunError
from longrun.formats.stages.damage import find_damage
from longrun.formats.stages.manifest import MANIFEST_NAME, Manifest

READERS = {
    "problems": "first",
    "tokenizer": "base",
    "base": "first",
    "first": "merge",
    "second": "merge",
    "prepare": "arrays",
    "merge": None,
    "pack": "arrays",
    "arrays": "unpacked",
    "train": "average",
    "average": "half",
    "generate": "evaluate",
}
"""Stage -> one that reads its output, and everything in it that such a stage reads."""
LEFT_ALONE = {".lock", "config.yaml", ".verified.json"}
"""Not output: spoilt too, but nothing reads their content as truth."""
Outcome = tuple[str, str]
"""Kind of file and what became of the case."""


def attack(folder: Path, recipe: Recipe, cases: int, seed: int) -> Counter[Outcome]:
    """Spoil ``cases`` files of the finished run of ``recipe`` one after the other."""
    rng = random.Random(seed)
    stages = {stage.name: stage for stage in recipe.stages}
    files = [
        (stage, path)
        for stage in recipe.stages
        for path in sorted(stage.config.output_dir.rglob("*"))
        if path.is_file() and path.stat().st_size
    ]
    whole = {
        name: Manifest.read(stages[name].config.output_dir).checksums
        for name in {one for one in READERS.values() if one}
    }
    found: Counter[Outcome] = Counter()
    chosen = [files[index % len(files)] for index in range(cases)]
    for stage, path in chosen:
        reader = READERS.get(stage.name)
        content = path.read_bytes()
        _replace(path, _spoil(content, rng))
        try:
            outcome = _use(folder, stage, stages[reader] if reader else None, whole)
        finally:
            _replace(path, content)
        found[_kind(path), outcome] += 1
    return found


def _use(
    folder: Path, maker: StagePlan, reader: StagePlan | None, whole: dict[str, dict[str, int]]
) -> str:
    again = folder / "again"
    said = False
    try:
        try:
            run_stage(folder, maker)
        except LongrunError:
            said = True
        if reader is None:
            said = said or any(find_damage(maker.config.output_dir))
        else:
            config = reader.config.model_copy(update={"output_dir": again})
            run_stage(folder, StagePlan(reader.name, reader.verb, config, reader.after))
            if Manifest.read(again).checksums != whole[reader.name]:
                return "silent"
    except LongrunError:
        said = True
    except Exception as error:  # noqa: BLE001 - what is counted
        logging.warning("%s", f"{maker.name}: {type(error).__name__}: {error}")
        return "traceback"
    finally:
        shutil.rmtree(again, ignore_errors=True)
    return "named" if said else "no effect"


def _spoil(content: bytes, rng: random.Random) -> bytes:
    """Flip one bit, or leave out the end, or everything."""
    at = rng.randrange(len(content))
    if rng.random() < 0.5:
        return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
    return content[: at if rng.random() < 0.8 else 0]


def _replace(path: Path, content: bytes) -> None:
    """Give ``path`` other bytes and leave other names of the old ones alone (merge links files)."""
    aside = path.with_name(f".{path.name}.attack")
    aside.write_bytes(content)
    os.replace(aside, path)


def _kind(path: Path) -> str:
    name = path.name
    if name in LEFT_ALONE:
        return "not output"
    return MANIFEST_NAME if name == MANIFEST_NAME else path.suffix or name


def main() -> None:
    """Print the table."""
    cases, seed = (int(word) for word in [*sys.argv[1:], "1080", "0"][:2])
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = attack(folder, build(folder), cases, seed)
    outcomes = ("named", "no effect", "silent", "traceback")
    print(f"| file | {' | '.join(outcomes)} |\n|---|{'---:|' * len(outcomes)}")
    for kind in sorted({kind for kind, _ in found}):
        print(f"| {kind} | {' | '.join(str(found[kind, outcome]) for outcome in outcomes)} |")
    totals = Counter(dict.fromkeys(outcomes, 0))
    for (_, outcome), count in found.items():
        totals[outcome] += count
    print(f"| all | {' | '.join(str(totals[one]) for one in outcomes)} |")


if __name__ == "__main__":
    main()
