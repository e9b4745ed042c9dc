import gzip
import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from longrun.data.documents import prepare
from longrun.errors import InputError, StaleError
from longrun.formats.documents import DocumentSet
from longrun.formats.stages.manifest import Manifest
from longrun.formats.stages.progress import format_count
from longrun.formats.text.conversation import Conversation
from longrun.formats.text.spans import SpanKind

RUNNER = """
import json, sys
from longrun.config.stages import PrepareConfig
from longrun.data.documents import prepare
if __name__ == "__main__":
    prepare.run(PrepareConfig.parse(json.loads(sys.argv[1]), "prepare"))
"""


@pytest.fixture
def data(samples, tmp_path) -> Path:
    return samples.write_jsonl(tmp_path / "records.jsonl", samples.records(300))


def documents(folder: Path) -> list[tuple[str, int, int, list[int]]]:
    found = []
    for split in ("train", "validation"):
        part = DocumentSet.open(folder / split)
        for at in range(len(part)):
            origin = part.origin(at)
            found.append((split, origin.line, origin.problem, part[at].tokens.tolist()))
    return found


def test_every_record_becomes_a_document_that_knows_its_line(make_config, data, tmp_path):
    manifest = prepare.run(make_config(data=data, part_bytes=65536, validation_share=0.2))
    found = documents(tmp_path / "out")
    assert sorted(line for _, line, _, _ in found) == list(range(1, 301))
    assert len(list((tmp_path / "out" / "parts").iterdir())) > 1
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for part in (tmp_path / "out" / "train", tmp_path / "out" / "validation"):
        split = DocumentSet.open(part)
        for at in range(len(split)):
            origin = split.origin(at)
            assert origin.path == str(data)
            assert origin.mode == rows[origin.line - 1]["inference_mode"]
    assert manifest.counts["documents"] + manifest.counts["validation_documents"] == 300


def test_the_ledger_and_the_figures_add_up(make_config, data, tmp_path):
    filters = [{"pass_rate": {"max": 0.5}}, {"response_tokens": {"min": 60}}]
    manifest = prepare.run(make_config(data=data, filters=filters, validation_share=0.2))
    ledger = manifest.ledger
    found = documents(tmp_path / "out")
    assert ledger.records_in == 300
    assert ledger.kept == len(found)
    assert ledger.tokens_kept == sum(len(tokens) for *_, tokens in found)
    assert set(ledger.dropped) == {"filter pass_rate", "filter response_tokens"}
    assert ledger.tokens_dropped["filter response_tokens"] > 0
    stats = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert sum(stats["tokens_by_span"].values()) == ledger.tokens_kept
    assert sum(sum(one["counts"]) for one in stats["lengths"].values()) == ledger.kept
    for one in stats["lengths"].values():
        assert len(one["edges"]) == len(one["counts"]) + 1
    example = stats["examples"]["filter pass_rate"]
    line = int(example.rpartition(":")[2])
    rate = json.loads(data.read_text().splitlines()[line - 1])["pass_rate_72b_tir"]
    assert rate in ("n/a", "0.9")


def test_workers_and_parts_leave_no_trace(make_config, data, tmp_path, samples):
    shared = {"data": data, "part_bytes": 65536, "validation_share": 0.2}
    outputs = []
    for name, num_workers in (("one", 1), ("two", 2)):
        config = make_config(**shared, output_dir=tmp_path / name, num_workers=num_workers)
        prepare.run(config)
        outputs.append(samples.contents(tmp_path / name))
    assert outputs[0] == outputs[1]
    prepare.run(make_config(data=data, validation_share=0.2))
    assert sorted(documents(tmp_path / "out")) == sorted(documents(tmp_path / "one"))


def test_a_problem_is_never_in_both_splits(make_config, data, tmp_path):
    prepare.run(make_config(data=data, validation_share=0.3))
    problems = {"train": set(), "validation": set()}
    for split, _, problem, _ in documents(tmp_path / "out"):
        problems[split].add(problem)
    assert problems["train"]
    assert problems["validation"]
    assert not problems["train"] & problems["validation"]


def test_compressed_and_plain_data_give_the_same_documents(make_config, data, tmp_path):
    prepare.run(make_config(data=data))
    packed = tmp_path / "records.jsonl.gz"
    packed.write_bytes(gzip.compress(data.read_bytes()))
    prepare.run(make_config(data=packed, output_dir=tmp_path / "gz"))
    assert documents(tmp_path / "gz") == documents(tmp_path / "out")


def test_spans_name_what_each_stretch_is(make_config, samples, tmp_path):
    rows = [samples.record(random.Random(1), "tir")]
    prepare.run(make_config(data=samples.write_jsonl(tmp_path / "a.jsonl", rows)))
    document = DocumentSet.open(tmp_path / "out" / "train")[0]
    kinds = [SpanKind(kind) for kind in document.span_kinds]
    assert kinds[:5] == [
        SpanKind.PROMPT, SpanKind.THINKING, SpanKind.CODE, SpanKind.TOOL_OUTPUT, SpanKind.NOTICE,
    ]  # fmt: skip
    assert kinds[-3:] == [SpanKind.THINKING, SpanKind.ANSWER, SpanKind.STOP]
    assert document.span_lengths.sum() == len(document.tokens)


def test_the_wording_of_notices_is_learned_from_the_records(make_config, samples, tmp_path):
    rows = samples.records(60)
    for row in rows:
        text = row["generated_solution"].replace("Spend them with care", "Mind them")
        row["generated_solution"] = text.replace("No code executions are left.", "None left.")
    prepare.run(make_config(data=samples.write_jsonl(tmp_path / "a.jsonl", rows)))
    code = Conversation.load(tmp_path / "out").code
    assert code.remaining_notice.startswith("Remaining code executions: {remaining}. Mind them:")
    assert code.exhausted_notice.startswith("None left. Code will")


def test_a_finished_stage_does_nothing_and_other_settings_are_refused(make_config, data, tmp_path):
    prepare.run(make_config(data=data))
    before = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    prepare.run(make_config(data=data, num_workers=2))
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(StaleError, match=r"prepare\.seed 0 -> 1"):
        prepare.run(make_config(data=data, seed=1))


def test_complete_parts_are_not_done_again(make_config, data, tmp_path, samples, monkeypatch):
    config = make_config(data=data, part_bytes=65536)
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_finish", lambda *arguments: None)
        prepare.run(config)
    shards = sorted((tmp_path / "out" / "train").glob("*.bin"))
    (tmp_path / "out" / "parts" / "00001.json").unlink()
    before = [shard.stat().st_mtime_ns for shard in shards]
    prepare.run(config)
    after = [shard.stat().st_mtime_ns for shard in shards]
    assert [one == two for one, two in zip(before, after, strict=True)].count(False) == 1
    prepare.run(make_config(data=data, part_bytes=65536, output_dir=tmp_path / "whole"))
    assert samples.contents(tmp_path / "out") == samples.contents(tmp_path / "whole")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_broken_record_is_named_and_leaves_nothing(num_workers, make_config, data, tmp_path):
    lines = data.read_text().splitlines(keepends=True)
    broken = [*lines[:16], '{"problem": 3}\n', *lines[17:250], "no json\n", *lines[251:]]
    data.write_text("".join(broken))
    config = make_config(data=data, part_bytes=65536, num_workers=num_workers)
    with pytest.raises(InputError, match=r"records\.jsonl:17: column problem: expected text, got"):
        prepare.run(config)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    data.write_text("".join(lines))
    assert prepare.run(config).ledger.kept == 300


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": {"cot": "maths"}}, r"prompt 'maths' is not built in \(did you mean math\?\)"),
        ({"chat_template": "chatlm"}, r"chat_template 'chatlm' is not built in"),
        ({"chat_template": "tokenizer"}, r"has no chat template; set chat_template to chatml"),
        ({"filters": [{"problem_type": ["x"]}]}, r"no record of 300 is left for training \(300 fi"),
        ({"prompts": {"cot": "math"}}, r"records\.jsonl:1: inference_mode '(tir|genselect)' has"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_named(settings, message, make_config, data):
    with pytest.raises(InputError, match=message):
        prepare.run(make_config(data=data, **settings))


def test_a_folder_without_a_tokenizer_is_named(make_config, data, tmp_path):
    message = r"model: has no tokenizer\.json; name a Hugging Face folder"
    with pytest.raises(InputError, match=message):
        prepare.run(make_config(data=data, tokenizer=tmp_path / "model"))
    assert not (tmp_path / "out").exists()


def test_a_killed_run_continues_to_the_same_bytes(make_config, samples, tmp_path):
    data = samples.write_jsonl(tmp_path / "records.jsonl", samples.records(1500))
    settings = {"data": data, "part_bytes": 65536, "validation_share": 0.1}
    prepare.run(make_config(**settings, output_dir=tmp_path / "whole"))
    expected = samples.contents(tmp_path / "whole")
    caught_midway = 0
    for seed in range(3):
        out = tmp_path / f"killed-{seed}"
        config = make_config(**settings, output_dir=out, num_workers=1 + seed % 2)
        caught_midway += _kill_at_random(config, random.Random(seed), len(expected))
        assert Manifest.read(out).ledger.kept == 1500
        assert samples.contents(out) == expected
    assert caught_midway


def _kill_at_random(config, rng, num_files: int) -> int:
    """Run ``config`` until it ends, killing it after some new files; return the kills."""
    source = str(Path(prepare.__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": source}
    command = [sys.executable, "-c", RUNNER, config.model_dump_json()]
    kills = 0
    for wanted in sorted(rng.sample(range(num_files), 2)):
        process = subprocess.Popen(
            command, env=environment, start_new_session=True, stderr=subprocess.PIPE
        )
        while process.poll() is None:
            if len(list(config.output_dir.rglob("*"))) >= wanted:
                time.sleep(rng.random() * 0.01)
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.001)
        process.communicate()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return kills


def test_the_exported_tokenizer_stops_and_renders_as_training_did(make_config, data, tmp_path):
    from transformers import AutoTokenizer

    prepare.run(make_config(data=data))
    exported = AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    conversation = Conversation.load(tmp_path / "out")
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    training = DocumentSet.open(tmp_path / "out" / "train")
    row = next(row for row in rows if row["inference_mode"] == "cot")
    at = next(at for at in range(len(training)) if training.origin(at).mode == "cot")
    user = conversation.prompts["cot"].fill(row)[1]
    rendered = exported.apply_chat_template(
        [{"role": "user", "content": user}], add_generation_prompt=True, tokenize=False
    )
    assert rendered == conversation.render("cot", row)
    prompt = np.split(training[at].tokens, [training[at].span_lengths[0]])[0]
    assert exported(rendered, add_special_tokens=False)["input_ids"] == prompt.tolist()
    assert exported.eos_token == conversation.stop == "<|im_end|>"


@pytest.mark.parametrize(
    ("memory_mb", "asked", "expected"),
    [(2048, 2, (2, 899)), (2048, 1, (1, 1798)), (2048, 64, (5, 359)), (600, 8, (1, 350))],
)
def test_workers_share_the_memory_and_fewer_start_when_it_is_short(memory_mb, asked, expected):
    count, most_bytes = prepare.share_memory(memory_mb, asked)
    assert (count, most_bytes // 1_000_000) == expected


def test_progress_tells_bytes_and_records_a_second(make_config, data, caplog):
    with caplog.at_level(logging.INFO):
        prepare.run(make_config(data=data))
    size = data.stat().st_size
    (line,) = (
        line for line in caplog.messages if line.startswith("prepare: ") and "bytes/s" in line
    )
    assert re.search(r"\(100 %\), [\d.]+[kM] bytes/s, 0 s left, [\d.]+k? records/s$", line), line
    assert line.startswith(f"prepare: {format_count(size)}/{format_count(size)} bytes")


def test_the_first_record_dropped_for_a_reason_is_named_by_its_line_of_the_file(
    make_config, samples, tmp_path
):
    rows = samples.records(400)
    for at in (310, 320):
        rows[at]["generated_solution"] = " "
    rows[5]["problem"] = "\n"
    data = samples.write_jsonl(tmp_path / "records.jsonl", rows)
    prepare.run(make_config(data=data, part_bytes=65536))
    assert len(list((tmp_path / "out" / "parts").iterdir())) > 2
    stats = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert stats["examples"] == {
        "empty problem": f"{data}:6",
        "empty solution": f"{data}:311",
    }
