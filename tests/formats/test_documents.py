import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun.errors import InputError
from longrun.formats.documents import LINEAGE, DocumentSet, ShardContent, Sources, write_index

SPANS = st.lists(st.tuples(st.integers(0, 6), st.lists(st.integers(0, 2**31 - 1), min_size=1)))
DOCUMENTS = st.lists(SPANS.filter(bool), min_size=1, max_size=6)


def write_shard(folder, name, documents, first_line=0):
    """Write ``documents``: lists of spans ``(kind, tokens)``."""
    folder.mkdir(exist_ok=True)
    spans = [span for document in documents for span in document]
    tokens = np.array([token for _, part in spans for token in part], "<i4")
    (folder / f"{name}.bin").write_bytes(tokens.tobytes())
    lineage = [(0, first_line + at, 2**63 + at, at % 2) for at in range(len(documents))]
    write_index(
        folder,
        name,
        ShardContent(
            span_lengths=np.array([len(part) for _, part in spans], np.int32),
            span_kinds=np.array([kind for kind, _ in spans], np.int8),
            first_spans=np.append(0, np.cumsum([len(document) for document in documents])),
            lineage=np.array(lineage, LINEAGE),
        ),
    )


def write_sources(folder, **first_lines):
    sources = {"paths": ["a.jsonl"], "modes": ["cot", "tir"], "first_lines": first_lines}
    (folder / "sources.json").write_text(json.dumps(sources))


@settings(deadline=None, max_examples=30)
@given(shards=st.lists(DOCUMENTS, min_size=1, max_size=3))
def test_documents_come_back_as_they_were_written(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    for at, documents in enumerate(shards):
        write_shard(folder / "train", f"{at:05d}", documents)
    write_sources(folder, **{f"{at:05d}": 100 * at for at in range(len(shards))})
    found = DocumentSet.open(folder / "train")
    expected = [document for documents in shards for document in documents]
    assert len(found) == len(expected)
    odd = found.target_counts(np.arange(7) % 2 == 1)
    for at, document in enumerate(expected):
        tokens = [token for _, part in document for token in part]
        assert found[at].tokens.tolist() == tokens
        assert found[at].span_kinds.tolist() == [kind for kind, _ in document]
        assert found[at].span_lengths.tolist() == [len(part) for _, part in document]
        assert found.lengths[at] == len(tokens)
        kinds = [kind for kind, part in document for _ in part]
        assert odd[at] == sum(kind % 2 for kind in kinds[1:])
        assert found.modes[found.mode_indices[at]] == found.origin(at).mode
    assert found.origin(len(found) - 1).path == "a.jsonl"


def test_an_origin_counts_lines_of_the_file_from_one(tmp_path):
    for name in ("00000", "00001"):
        write_shard(tmp_path / "train", name, [[(0, [1])], [(5, [2, 3])]])
    write_sources(tmp_path, **{"00000": 0, "00001": 40})
    documents = DocumentSet.open(tmp_path / "train")
    assert [documents.origin(at).line for at in range(4)] == [1, 2, 41, 42]
    assert documents.origin(3).problem == 2**63 + 1


def test_the_index_is_megatrons_byte_for_byte(tmp_path):
    write_shard(tmp_path / "train", "00000", [[(0, [7, 8]), (5, [9])], [(0, [1, 2, 3])]])
    expected = (
        b"MMIDIDX\x00\x00"
        + struct.pack("<Q", 1)
        + struct.pack("<B", 4)
        + struct.pack("<QQ", 3, 3)
        + struct.pack("<3i", 2, 1, 3)
        + struct.pack("<3q", 0, 8, 12)
        + struct.pack("<3q", 0, 2, 3)
        + struct.pack("<3b", 0, 5, 0)
    )
    assert (tmp_path / "train" / "00000.idx").read_bytes() == expected


def test_a_split_without_shards_is_empty(tmp_path):
    (tmp_path / "train").mkdir()
    write_sources(tmp_path)
    documents = DocumentSet.open(tmp_path / "train")
    assert len(documents) == 0
    assert documents.lengths.dtype == np.int32
    assert documents.lengths.shape == documents.mode_indices.shape == (0,)
    with pytest.raises(IndexError):
        documents[0]


def test_tokens_are_views_that_cannot_be_written(tmp_path):
    write_shard(tmp_path / "train", "00000", [[(0, [1, 2])]])
    write_sources(tmp_path, **{"00000": 0})
    tokens = DocumentSet.open(tmp_path / "train")[0].tokens
    assert not tokens.flags.owndata
    assert not tokens.flags.writeable


@pytest.mark.parametrize("suffix", ["bin", "idx"])
def test_a_shard_cut_short_is_named(suffix, tmp_path):
    write_shard(tmp_path / "train", "00000", [[(0, [1, 2])], [(0, [3])]])
    write_sources(tmp_path, **{"00000": 0})
    path = tmp_path / "train" / f"00000.{suffix}"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"00000\.idx: is damaged"):
        DocumentSet.open(tmp_path / "train")


def test_a_folder_without_sources_is_named(tmp_path):
    with pytest.raises(InputError, match=r"sources\.json: cannot be read"):
        Sources.load(tmp_path)
