"""What a user sees when something is wrong: one line, exit code 2, nothing half-written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RECORD = {
    "problem": "What is 1 + 1?",
    "generated_solution": "<think>\n1 + 1 = 2\n</think>\n\\boxed{2}",
    "inference_mode": "cot",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "good.jsonl").write_text(json.dumps(RECORD) + "\n")
    for verb, *settings in (
        ("train_tokenizer", "data=good.jsonl", "output_dir=tok", "vocab_size=300"),
        ("init_model", "tokenizer=tok", "output_dir=base", "num_layers=1", "hidden_size=32"),
        ("prepare", "data=good.jsonl", "tokenizer=base", "output_dir=docs"),
        ("pack", "documents=docs", "output_dir=packs", "pack_size=512"),
    ):
        done = longrun(folder, verb, *settings)
        assert done.returncode == 0, done.stderr
    lines = [json.dumps(RECORD)] * 20
    (folder / "broken.jsonl").write_text("\n".join([*lines[:16], '{"problem": ', *lines[17:]]))
    (folder / "column.jsonl").write_text('{"problem": "?"}\n')
    wrong = {**RECORD, "generated_solution": 7}
    (folder / "type.jsonl").write_text("\n".join([*lines[:2], json.dumps(wrong)]))
    (folder / "empty.jsonl").write_text("")
    (folder / "bytes.jsonl").write_bytes(lines[0].encode() + b'\n{"problem": "\xff"}\n')
    (folder / "folder.jsonl").mkdir()
    (folder / "no-config").mkdir()
    (folder / "questions.jsonl").write_text('{"problem": "?"}\n')
    return folder


def longrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "longrun", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


PREPARE = ("prepare", "tokenizer=base", "output_dir=out")
TRAIN = ("train", "packs=packs", "output_dir=out")
GENERATE = ("generate", "models={base: base}", "conversation=docs", "output_dir=out")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*PREPARE, "data=column.jsonl"), ["column.jsonl:1", "generated_solution"]),
        ((*PREPARE, "data=type.jsonl"), ["type.jsonl:3", "generated_solution"]),
        ((*PREPARE, "data=empty.jsonl"), ["empty.jsonl", "empty"]),
        ((*PREPARE, "data=broken.jsonl"), ["broken.jsonl:17", "JSON"]),
        ((*PREPARE, "data=bytes.jsonl"), ["bytes.jsonl:2", "UTF-8"]),
        ((*PREPARE, "data=folder.jsonl"), ["folder.jsonl", "folder"]),
        ((*PREPARE, "data=absent.jsonl"), ["absent.jsonl"]),
        ((*PREPARE, "data=*.parquet"), ["*.parquet"]),
        ((*PREPARE, "data=good.jsonl", "tokenizer=no-config"), ["tokenizer.json"]),
        ((*PREPARE, "data=good.jsonl", "sead=3"), ["unknown setting", "did you mean seed?"]),
        (("pack", "documents=docs", "output_dir=out", "pack_size=-7"), ["pack_size", "-7"]),
        (("pack", "documents=base", "output_dir=out"), ["base"]),
        ((*TRAIN, "model=no-config"), ["no-config", "config.json"]),
        ((*TRAIN, "model=absent"), ["absent"]),
        ((*TRAIN, "model=base", "global_batch_size=9"), ["global_batch_size", "9"]),
        ((*GENERATE, "benchmarks=[{name: b, path: questions.jsonl}]"), ["questions.jsonl:1"]),
        (("average", "checkpoints=docs", "output_dir=out"), ["docs"]),
        (("report", "stages=[no-config]", "output_dir=out"), ["no-config"]),
    ],
    ids=lambda value: value[-1].replace("/", "-") if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line_that_names_place_and_remedy(place, arguments, words):
    done = longrun(place, *arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("longrun: ")
    for word in words:
        assert word in message
    out = place / "out"
    left = [path.name for path in out.rglob("*") if path.is_file()] if out.exists() else []
    assert set(left) <= {".lock", "config.yaml", "started.json"}


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a small disk as Linux does")
@pytest.mark.parametrize(
    ("size", "arguments"),
    [
        ("1m", ("synthesize", "num_cot=9000")),
        ("200k", ("train", "packs=packs", "model=base", "global_batch_size=1", "max_steps=1")),
    ],
    ids=["synthesize", "train"],
)
def test_a_full_disk_is_named_and_the_same_command_continues(place, tmp_path, size, arguments):
    """On a small disk mounted for this test, then on the same disk made larger."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a disk")
    try:
        done = longrun(place, *arguments, f"output_dir={disk}/out")
        assert done.returncode == 2, done.stderr
        assert "no space left" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        assert not list((disk / "out").rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        assert longrun(place, *arguments, f"output_dir={disk}/out").returncode == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)
