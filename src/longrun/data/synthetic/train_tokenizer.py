"""The stage ``train_tokenizer``: learn a byte-level BPE tokenizer from the user's own records.

Its output folder is a Hugging Face tokenizer folder. How the merges are learned is in
``longrun.data.synthetic.tokenizer_training``.
"""

from collections.abc import Iterator
from contextlib import closing

from longrun.config.stages import DataSource, TrainTokenizerConfig
from longrun.data.records.filters import require_text
from longrun.data.records.prompts import load_prompt
from longrun.data.records.sources import Part, cut_parts, fault, list_files, read_part
from longrun.data.synthetic.tokenizer_training import train_tokenizer, write_tokenizer_folder
from longrun.errors import InputError
from longrun.formats.stages.manifest import Manifest
from longrun.formats.stages.progress import show_progress
from longrun.formats.stages.stage import open_stage

_PART_BYTES = 64 << 20
_MODEL_MAX_LENGTH = 1 << 20
"""Only a threshold for warnings of other programs."""


def run(config: TrainTokenizerConfig) -> Manifest:
    """Train and write the tokenizer of ``config``.

    Raises:
        InputError: a record file cannot be used.
        StaleError: the output folder holds output of other settings or inputs.
    """
    files = list_files([DataSource(path=path) for path in config.data])
    parts = cut_parts(files, _PART_BYTES)
    prompts = [load_prompt(path) for path in config.prompts]
    with open_stage("train_tokenizer", config) as stage:
        if stage.finished is not None:
            return stage.finished
        texts = [text for prompt in prompts for text in (prompt.system, prompt.user)]
        total = sum(part.num_bytes for part in parts)
        with show_progress("train_tokenizer", total, "bytes") as progress:
            for part in parts:
                texts += _texts(part)
                progress.advance(part.num_bytes)
        tokenizer = train_tokenizer(texts, vocabulary_size=config.vocab_size)
        aside = stage.folder / ".tokenizer.tmp"
        write_tokenizer_folder(tokenizer, aside, model_max_length=_MODEL_MAX_LENGTH)
        for path in aside.iterdir():
            path.replace(stage.folder / path.name)
        aside.rmdir()
        counts = {"texts": len(texts), "vocabulary": tokenizer.get_vocab_size()}
        return stage.finish(counts=counts)


def _texts(part: Part) -> Iterator[str]:
    with closing(read_part(part, lambda _: None)) as records:
        for line, record in enumerate(records):
            if record is None:
                continue
            try:
                yield require_text(record, "problem")
                yield require_text(record, "generated_solution")
            except InputError as error:
                raise fault(part, line, str(error)) from None
