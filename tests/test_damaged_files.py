"""Files of finished stages with other contents: every reader reads them or refuses by one line."""

import pytest

from longrun.checkpoint.model_folder import read_config
from longrun.checkpoint.sharded import read_state
from longrun.data.documents.tally import Tally
from longrun.errors import LongrunError
from longrun.evaluation.generation.cached_model import read_stop_ids
from longrun.formats.contamination import read_contamination
from longrun.formats.documents import Sources
from longrun.formats.plans import PackPlan, PacksInfo
from longrun.formats.predictions import read_grades, read_predictions, read_summary
from longrun.formats.stages.damage import find_damage
from longrun.formats.text.conversation import Conversation
from longrun.formats.text.tokenizer_file import decode_file
from longrun.formats.text.tokenizer_folder import read_object
from longrun.plan.models import find_model
from longrun.report.sections.training import read_shape
from longrun.training.metrics import read_metrics

DEEP = 200_000
CONTENTS = {
    "empty": b"",
    "null": b"null\n",
    "true": b"true\n",
    "list": b"[1]\n",
    "text": b'"x"\n',
    "no field": b"{}\n",
    "odd fields": b'{"documents": null, "eos_token_id": {}, "prompts": [], "weight_map": 3}\n',
    "numbers": b'{"pack_size": true, "num_epochs": 1e999, "step": NaN, "hidden_size": Infinity}\n',
    "deep": b'{"a": ' + b"[" * DEEP + b"]" * DEEP + b"}\n",
    "open": b"[" * DEEP + b"\n",
    "bytes": b'{"a": "\xff"}\n',
    "half": b'{"documents": "\\ud800"}\n',
    "zeros": b"\0" * 4096,
    "npy": b"\x93NUMPY\x01\x00",
}
READERS = {
    "packs.json": PacksInfo.load,
    "epoch-0.documents.npy": lambda folder: PackPlan.load(folder, "epoch-0"),
    "sources.json": Sources.load,
    "manifest.json": lambda folder: list(find_damage(folder)),
    "conversation.json": Conversation.load,
    "summary.json": read_summary,
    "contamination.json": read_contamination,
    "tally.json": lambda folder: Tally.load(folder / "tally.json"),
    "predictions.jsonl": lambda folder: read_predictions(folder / "predictions.jsonl"),
    "grades.jsonl": lambda folder: read_grades(folder / "grades.jsonl"),
    "config.json": read_config,
    "generation_config.json": read_stop_ids,
    "config.json of a plan": lambda folder: find_model(str(folder)),
    "config.json of a report": lambda folder: read_shape(folder / "config.json"),
    "tokenizer_config.json": lambda folder: read_object(folder / "tokenizer_config.json"),
    "tokenizer.json": lambda folder: decode_file(folder, (folder / "tokenizer.json").read_bytes()),
    "state.json": read_state,
    "metrics.jsonl": read_metrics,
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_by_one_line(name, content, tmp_path):
    (tmp_path / name.partition(" ")[0]).write_bytes(content)
    said = ""
    try:
        READERS[name](tmp_path)
    except LongrunError as error:
        said = str(error)
    assert "\n" not in said
    assert not said or str(tmp_path) in said
