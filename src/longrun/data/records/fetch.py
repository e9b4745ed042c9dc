"""The stage ``fetch``: splits of a data set on the Hugging Face Hub, as Parquet files in folders.

Everything after this stage works on files alone. An interrupted one goes on with the file that was
not whole.
"""

import os
from pathlib import Path
from shutil import rmtree

from longrun.config.benchmarks import HubFile
from longrun.config.stages import FetchConfig
from longrun.errors import InputError
from longrun.formats.hub import download, list_files
from longrun.formats.stages.manifest import Manifest
from longrun.formats.stages.progress import show_progress
from longrun.formats.stages.stage import open_stage

_CACHE = ".cache"
_REMEDY = (
    "run the same command again where there is network, or copy the Parquet files here and name"
    " them in prepare"
)


def run(config: FetchConfig) -> Manifest:
    """Download the splits of ``config`` into ``output_dir/SPLIT/*.parquet``.

    Raises:
        ResourceError: the extra ``hub`` is not installed, or the Hub cannot be reached.
        InputError: the Hub has no such data set, or it has no such split.
    """
    with open_stage("fetch", config) as stage:
        if stage.finished is not None:
            return stage.finished
        names = list_files(config.dataset, config.revision, _REMEDY)
        chosen = {split: choose_files(names, split) for split in config.splits}
        for split, files in chosen.items():
            if not files:
                raise InputError(
                    f"fetch: {config.dataset} has no Parquet file of split {split!r}; it has"
                    f" {', '.join(sorted(name for name in names if name.endswith('.parquet'))[:9])}"
                )
        total = sum(map(len, chosen.values()))
        cache = stage.folder / _CACHE
        rmtree(cache, ignore_errors=True)  # half a file of a killed download is of no use
        with show_progress("fetch", total, "files") as progress:
            for split, files in chosen.items():
                (stage.folder / split).mkdir(exist_ok=True)
                for name in files:
                    target = stage.folder / split / Path(name).name
                    if target.exists():
                        progress.skip(1)
                        continue
                    os.replace(_download(config, name, cache), target)
                    progress.advance()
        rmtree(cache, ignore_errors=True)
        return stage.finish(counts={"files": total})


def choose_files(names: list[str], split: str) -> list[str]:
    """Return the Parquet files of a split, by the naming rules of the Hub.

    >>> choose_files(["data/cot-00000-of-00002.parquet", "data/tir-00000-of-00001.parquet"], "cot")
    ['data/cot-00000-of-00002.parquet']
    """
    found = []
    for name in sorted(names):
        path = Path(name)
        if path.suffix == ".parquet" and (
            path.stem == split or path.stem.startswith(f"{split}-") or path.parent.name == split
        ):
            found.append(name)
    return found


def _download(config: FetchConfig, name: str, cache: Path) -> Path:
    file = HubFile(dataset=config.dataset, file=name, revision=config.revision)
    return download(file, cache, _REMEDY)
