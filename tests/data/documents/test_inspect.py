import numpy as np
import pytest
from typer.testing import CliRunner

from longrun.cli.main import app
from longrun.config.stages import PackConfig
from longrun.data.documents.inspect import show_document
from longrun.data.packs import pack
from longrun.errors import ConfigError, InputError
from longrun.formats.documents import DocumentSet
from longrun.formats.plans import PackSet
from longrun.formats.stages.damage import find_damage
from longrun.formats.text.spans import SpanKind


def run(*arguments):
    done = CliRunner().invoke(app, ["inspect", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def first_of(folder, mode) -> int:
    documents = DocumentSet.open(folder / "train")
    return int(np.flatnonzero(documents.mode_indices == documents.modes.index(mode))[0])


def test_a_document_is_shown_by_span_with_its_weights(prepared):
    at = first_of(prepared, "tir")
    documents = DocumentSet.open(prepared / "train")
    out = run(prepared, "--document", at, "--weights", "tool_output=0.5")
    origin = documents.origin(at)
    assert f"records.jsonl:{origin.line} (tir)" in " ".join(out.split())
    for kind, length in zip(documents[at].span_kinds, documents[at].span_lengths, strict=True):
        name = SpanKind(kind).name.lower()
        weight = {"prompt": "0", "notice": "0", "tool_output": "0.5"}.get(name, "1")
        assert f"[{name}, {length} tokens, weight {weight}]" in out
    assert "print(" in out


def test_the_page_holds_the_same_text_escaped(prepared, tmp_path):
    at = first_of(prepared, "tir")
    run(prepared, "--document", at, "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    weights = dict.fromkeys(SpanKind, 1.0)
    _, spans = show_document(prepared, "train", at, weights)
    text = "".join(span.text for span in spans)
    assert text.startswith("<|im_start|>system")
    assert text.endswith("<|im_end|>")
    assert "&lt;tool_call&gt;" in page
    assert "<tool_call>" not in page
    assert "tool_output: " in page
    assert "weight 0" in page


def test_a_pack_is_listed_with_its_documents(prepared, tmp_path):
    pack.run(PackConfig(documents=prepared, output_dir=tmp_path / "packs", pack_size=512))
    out = run(tmp_path / "packs", "--pack", 1)
    plan = PackSet.open(tmp_path / "packs").plan(0)
    for document in plan[1]:
        assert f" {document} " in out
    assert "of 512 tokens" in out
    with pytest.raises(InputError, match=f"pack 999: .* has {len(plan)} in epoch 0"):
        run(tmp_path / "packs", "--pack", 999)


def test_whole_shards_pass_the_check(prepared):
    assert "MB, as they were written" in " ".join(run(prepared, "--check").split())


@pytest.mark.parametrize("name", ["train/00000.bin", "train/00000.idx", "validation/00000.bin"])
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_a_damaged_shard_is_named(name, how, prepared):
    path = prepared / name
    content = bytearray(path.read_bytes())
    if how == "remove":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content) if how == "flip" else bytes(content[:-4]))
    assert [line.partition(": ")[0] for line in find_damage(prepared)] == [str(path)]
    with pytest.raises(InputError, match=f"1 damaged: .*{name}"):
        run(prepared, "--check")


def test_a_shard_that_nobody_wrote_is_named(prepared):
    (prepared / "train" / "00009.idx").write_bytes(b"")
    assert "00009.idx: is not one of the files that were written" in next(find_damage(prepared))


def test_mistakes_are_named(prepared):
    with pytest.raises(InputError, match=r"document 9999: .*train has \d+, from 0 on"):
        run(prepared, "--document", 9999)
    with pytest.raises(ConfigError, match=r"weights\.thonking: unknown setting; did you mean th"):
        run(prepared, "--weights", "thonking=1")
