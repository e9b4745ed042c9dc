"""Odd settings, recipes, cluster files and command lines, over every verb; outcomes as a table.

    python bench/attack/settings.py [--cases 5000] [--seed N]

Every case is one command line, run in this process as the shell would start it. Allowed ends are
exit code 0, and exit code 2 with a message; a traceback, another code or more than 20 seconds is a
fault, printed with its words. Case ``i`` of a seed is always the same.
"""

import argparse
import contextlib
import io
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
import typer
import yaml
from pydantic_core import PydanticUndefined

from attack.tiny import RECIPE
from longrun.cli.main import app, main
from longrun.config.cluster import Cluster
from longrun.config.nemo_skills.verbs import OPTIONS
from longrun.config.settings import Settings
from longrun.config.stages import STAGES
from longrun.plan.settings import PlanSettings

HANG_SECONDS = 20
ODD = [
    *(
        "",
        "~",
        "null",
        "true",
        "false",
        "yes",
        "no",
        "on",
        "0",
        "-1",
        "1",
        "2",
        "-0",
        "010",
        "0x1f",
    ),
    *("1e999", "-1e999", ".inf", "-.inf", ".nan", "nan", "inf", "1e-400", "3.5", "1e3", "1_000"),
    *("9" * 25, "9" * 5000, "-" + "9" * 19, str(2**63 - 1), str(2**63), str(2**31), "1e18"),
    *("2024-13-45", "2024-01-01", "2024", "12:30:45", "30:00", "1-12:00:00", "0:0", "4h", "-4h"),
    *("!!int x", "!!float x", "!!bool x", "!!binary x", "!!python/object:os.system x", "!!map x"),
    *("[" * 300, "{a: " * 300, "[]", "{}", "[1, 2]", "[true]", "{a: b}", "{a: 1, a: 2}", "{12: 3}"),
    *("{true: 1}", "&a [*a]", "&a {<<: *a}", "*a", "[[[[1]]]]", "{a: {b: {c: 1}}}", "[~, ~]"),
    *("a\nb", "a\tb", "\x1b[31mred", "\u202e", "\u00e9", "\udcff", "\x7f", "\x01", "\ufeff"),
    *("x" * 300, "x/" * 3000, "x" * 20000, "../..", "/", "//", "/dev/null", "/proc/self/mem", "."),
    *("~root", "a/../a", "folder", "folder/x", "text", "text/x", "binary", "r.yaml", "no.yaml"),
    *("${x}", "${", "${}", "${prepare}", "${pack}/x", "???", "a=b", "=", "'", '"', "$(id)", "`id`"),
    *("a b", "-x", "--", "--x", "+x", "*", "[a-", "**", "a*/**/b", "%s", "%n", "{", "{0}", "{x!r}"),
    *("{{", "}}", "{{ x.__class__ }}", "{% for %}", "\\", "#", "a: b", "- a", "|", ">", "@", "%"),
    *(
        "1/2",
        "2/1",
        "0/0",
        "9" * 30 + "/" + "9" * 30,
        "1/",
        "a,b,,c",
        ",",
        ":",
        "/a:/b:ro",
        "a:b:c:d",
    ),
    *("number(a) <", "1" + "+1" * 3000, "not " * 3000 + "a", "(" * 300, "a" * 9 + "(b)", "len()"),
    *(
        "adamw",
        "float32",
        "bfloat16",
        "last:2",
        "all",
        "aime24",
        "train",
        "chatml",
        "http://x",
        "a/b",
    ),
]
"""Values that an argument of a command line can have."""
WITHIN_FILES = ["\0", "\ud800", "a\0b", 10**30, float("inf"), float("nan"), True, None, [], {}, -1]
"""Values that only a file or Python can have."""
_KEYS = ["", "12", "a.b", "verb", "extends", "name", "<<", "=", "x" * 300, "\u00e9", "${x}", "a b"]
_TEXTS = [
    "\0",
    "\t",
    "\n",
    "{",
    "}",
    "[",
    "]",
    ": ",
    "- ",
    "&a ",
    "*a",
    "<<: *a",
    "!!int ",
    "'",
    "|\n",
]
_HELP = click.Option(["--help"], is_flag=True)
_NOT_RUN = {"synthesize", "fetch", "run_cmd", "demo"}
"""Verbs that would work for long, open connections or run what they are given."""


@dataclass(frozen=True, slots=True)
class Case:
    """One command line and the files that it finds."""

    kind: str
    words: list[str]
    files: dict[str, str]


def make_case(seed: int, index: int) -> Case:
    """Return the case ``index`` of ``seed``."""
    rng = random.Random(f"{seed} {index}")
    make = rng.choice((_settings, _settings, _options, _recipe, _recipe, _cluster, _other_verb))
    return make(rng)


def run_case(case: Case, folder: Path) -> str:
    """Run ``case`` in ``folder`` and say how it ended; a fault begins with ``FAULT``."""
    for name, text in case.files.items():
        (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    output, errors = io.StringIO(), io.StringIO()
    with (
        _placed(case.words, folder),
        _bounded(),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        code = _call()
    if isinstance(code, str):
        return f"FAULT {code}"
    if code not in (0, 2):
        return f"FAULT exit code {code}: {errors.getvalue()[-500:]}"
    if code == 2 and not errors.getvalue().strip():
        return "FAULT exit code 2 without a word"
    return f"exit code {code}"


def _call() -> Any:
    """Call the command line; return its exit code, or the traceback that came out."""
    try:
        main()
    except SystemExit as end:
        return end.code or 0
    except BaseException:  # noqa: BLE001 - whatever comes out is the finding
        return traceback.format_exc()
    return 0


@contextlib.contextmanager
def _placed(words: list[str], folder: Path) -> Iterator[None]:
    before, where, stdin = sys.argv, os.getcwd(), sys.stdin
    sys.argv, sys.stdin = ["longrun", *words], io.StringIO()
    os.chdir(folder)
    try:
        yield
    finally:
        sys.argv, sys.stdin = before, stdin
        os.chdir(where)


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> NoReturn:
        raise AssertionError(f"no end within {HANG_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _places(config: type[Settings], prefix: str = "") -> list[str]:
    """Return the dotted names of all settings, also of those that lie in others."""
    found = []
    for name, info in config.model_fields.items():
        found.append(prefix + name)
        default = info.get_default(call_default_factory=True)
        if isinstance(default, Settings):
            found += _places(type(default), f"{prefix}{name}.")
    return found


def _required(config: type[Settings]) -> list[str]:
    values = {"models": "{a: m}", "dataset": "a/b", "benchmarks": "b.jsonl", "conversation": "c"}
    names = [n for n, info in config.model_fields.items() if info.default is PydanticUndefined]
    return [f"{name}={values.get(name, name[:1])}" for name in names]


def _settings(rng: random.Random) -> Case:
    verb = rng.choice([*STAGES, "plan"])
    config = PlanSettings if verb == "plan" else STAGES[verb]
    words = [word for word in _required(config) if rng.random() < 0.95]
    for name in rng.choices(_places(config), k=rng.choice((1, 1, 2, 4))):
        words.append(f"{name}{rng.choice(('', '', '', '.x', 'x'))}={rng.choice(ODD)}")
    dry = verb in _NOT_RUN or (verb != "plan" and rng.random() < 0.5)
    return Case("settings", [verb, *words, *(["--dry-run"] if dry else [])], {})


def _options(rng: random.Random) -> Case:
    """Options of the command line and of the reference; the cluster's jobs are only shown."""
    verb = rng.choice(list(STAGES))
    names = ["cluster", "config_dir", "expname", "run_after", "log_dir", "partition", "time_limit"]
    words = _required(STAGES[verb])
    for name in rng.choices([*names, "num_training_jobs"], k=rng.choice((1, 2))):
        words += [f"--{name}={rng.choice(ODD)}"]
    for name in rng.choices(list(OPTIONS.get(verb, {"x": None})), k=rng.choice((0, 1, 3))):
        sign = rng.choice(("--", "++", ""))
        words += rng.choice(([f"{sign}{name}={rng.choice(ODD)}"], [sign + name, rng.choice(ODD)]))
    rng.shuffle(words)
    return Case("options", [verb, *words, "--dry-run"], {})


def _recipe(rng: random.Random) -> Case:
    tree = yaml.safe_load(yaml.safe_dump({**RECIPE, "settings": {"a": 1, "b": "${a}"}}))
    tree["scales"] = {"small": {"stages": {"pack": {"pack_size": 512}}}}
    tree["jobs"] = {"train": {"time_limit": "4h"}}
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        _mutate(rng, tree)
    text = _scribble(rng, yaml.dump(tree, sort_keys=False, allow_unicode=True))
    stages = list(RECIPE["stages"])
    words = []
    for _ in range(rng.choice((0, 0, 1, 2))):
        place = rng.choice([*stages, "jobs.train", "a", "name", "x"])
        words.append(f"{place}{rng.choice(('', '.x', '.seed', '.verb'))}={rng.choice(ODD)}")
    words += rng.choice(([], [], ["scale=small"], [f"--only={rng.choice(ODD)}"], ["--from=train"]))
    return Case("recipes", ["run", "r.yaml", *words, "--dry-run"], {"r.yaml": text})


def _cluster(rng: random.Random) -> Case:
    executor = rng.choice(("local", "slurm"))
    tree: dict[str, Any] = {"executor": executor, "job_dir": "/tmp/jobs"}
    for name in rng.choices(list(Cluster.model_fields), k=rng.choice((1, 2, 3))):
        if name != "ssh":
            tree[name] = rng.choice([*ODD, *WITHIN_FILES, ["a", 1], {"a": "b"}, [{"host": "/a"}]])
    text = _scribble(rng, yaml.dump(tree, sort_keys=False))
    words = ["run_cmd", "--cluster=c.yaml", "--dry-run", "true"]
    return Case("cluster files", words, {"c.yaml": text})


def _other_verb(rng: random.Random) -> Case:
    """Any verb with its own arguments and options, none of them right."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    verb = rng.choice([name for name in commands if name not in STAGES])
    words = [rng.choice(ODD) for _ in range(rng.choice((0, 1, 1, 2)))]
    for option in rng.choices(commands[verb].params or [_HELP], k=rng.choice((0, 1, 2))):
        if option.opts[0].startswith("--") and option.opts[0] not in ("--follow",):
            words.append(option.opts[0] + ("" if option.is_flag else f"={rng.choice(ODD)}"))
    safe = ["--dry-run"] if verb in ("run", "run_cmd", "demo", "eval") else []
    return Case("other verbs", [verb, *safe, *words], {})


def _mutate(rng: random.Random, tree: Any) -> None:
    """Change one value, or the name of one, somewhere in ``tree``."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(tree[key], dict | list) and rng.random() < 0.8:
            tree = tree[key]
            continue
        if isinstance(tree, dict) and rng.random() < 0.3:
            tree[rng.choice([*_KEYS, *keys, 12, True, None, 1.5])] = tree.pop(key)
        else:
            tree[key] = rng.choice([*ODD, *WITHIN_FILES])
        return


def _scribble(rng: random.Random, text: str) -> str:
    """Cut, double or insert a piece of the text of a file, or leave it."""
    kind, at = rng.random(), rng.randrange(len(text))
    if kind < 0.1:
        return text[:at]
    if kind < 0.2:
        return text[:at] + rng.choice(_TEXTS) * rng.choice((1, 1, 3, 5000)) + text[at:]
    if kind < 0.3:
        lines = text.splitlines(keepends=True)
        place = rng.randrange(len(lines))
        return "".join([*lines[:place], lines[place], *lines[place:]])
    return text


def make_place(folder: Path) -> None:
    """Put into ``folder`` what some odd values name."""
    (folder / "folder").mkdir()
    (folder / "text").write_text("text\n")
    (folder / "binary").write_bytes(bytes(range(256)))


def attack(seed: int, cases: int, seconds: float = float("inf")) -> tuple[Counter[str], list[str]]:
    """Run cases until there were so many or the time is over; return outcomes and faults."""
    outcomes, faults, began = Counter[str](), list[str](), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="longrun-attack-") as name:
        make_place(Path(name))
        for index in range(cases):
            if time.monotonic() - began > seconds:
                break
            case = make_case(seed, index)
            outcome = run_case(case, Path(name))
            outcomes[f"{case.kind:14} {outcome.split(':')[0].splitlines()[0][:40]}"] += 1
            if outcome.startswith("FAULT"):
                faults.append(f"seed {seed} case {index}: {case.words!r:.600}\n{outcome}")
    return outcomes, faults


def _main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    outcomes, faults = attack(options.seed, options.cases)
    print(*faults, sep="\n\n")
    print(f"seed {options.seed}, {sum(outcomes.values())} cases, {len(faults)} faults")
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:6}  {outcome}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(_main())
