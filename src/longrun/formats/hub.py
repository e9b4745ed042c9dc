"""Files of data sets on the Hugging Face Hub; the one place that talks to it (extra ``hub``).

An interrupted download goes on file by file when it is asked for with the same folder.
"""

import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from longrun.config.benchmarks import Benchmark, HubFile
from longrun.errors import InputError, ResourceError

log = logging.getLogger(__name__)


def list_files(dataset: str, revision: str, remedy: str) -> list[str]:
    """Return the paths of all files of a data set; ``remedy`` ends the message where it fails.

    Raises:
        ResourceError: the extra is not installed, or the Hub cannot be reached.
        InputError: the Hub has no such data set or revision.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise _not_installed(error) from None
    try:
        return list(HfApi().list_repo_files(dataset, repo_type="dataset", revision=revision))
    except HfHubHTTPError as error:
        raise InputError(f"{dataset} at {revision}: {_one_line(error)}") from None
    except Exception as error:  # noqa: BLE001  (its network library differs between versions)
        raise _unreachable(dataset, error, remedy) from None


def download(file: HubFile, folder: Path, remedy: str) -> Path:
    """Download one file into ``folder`` and return where it lies there.

    Raises:
        ResourceError: the extra is not installed, or the file cannot be had.
    """
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise _not_installed(error, remedy) from None
    try:
        return Path(
            hf_hub_download(
                file.dataset,
                file.file,
                repo_type="dataset",
                revision=file.revision,
                local_dir=folder,
            )
        )
    except Exception as error:  # noqa: BLE001  (as above; a full disk too is an OSError here)
        raise _unreachable(f"{file.dataset}/{file.file}", error, remedy) from None


def fetch_missing(benchmarks: Iterable[Benchmark]) -> None:
    """Fetch the files of known benchmarks that were named without a path and are not here yet.

    Several jobs may do so at the same time: each puts a whole file in place.

    Raises:
        ResourceError: as ``download``; says how to fetch the file by hand.
    """
    for benchmark in benchmarks:
        if benchmark.hub is None or benchmark.path.exists():
            continue
        hub, folder = benchmark.hub, benchmark.path.parent
        log.info("fetching %s of %s into %s", hub.file, hub.dataset, benchmark.path)
        folder.mkdir(parents=True, exist_ok=True)
        remedy = (
            f"where there is network: hf download {hub.dataset} {hub.file} --repo-type dataset"
            f" --revision {hub.revision} --local-dir FOLDER; then name it:"
            f" {{name: {benchmark.name}, like: {benchmark.like}, path: FOLDER/{hub.file}}}"
        )
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            os.replace(download(hub, Path(aside), remedy), benchmark.path)


def _not_installed(error: ImportError, remedy: str = "") -> ResourceError:
    others = f", or {remedy}" if remedy else ""
    return ResourceError(f"{error.name} is not installed; pip install {error.name}{others}")


def _unreachable(what: str, error: Exception, remedy: str) -> ResourceError:
    reason = f"{type(error).__name__}: {_one_line(error)}"
    return ResourceError(f"{what} cannot be fetched ({reason}); {remedy}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
