"""``longrun verify`` as a user starts it, on real processes."""

import json

import pytest
import torch

from longrun.config.training import VerifyConfig
from longrun.errors import InputError, VerificationError
from longrun.nn import decoder
from longrun.parallel.mesh import Mesh
from longrun.training import check_laws as proving
from longrun.training import verify as proof
from longrun.training.verify import RESULT_NAME

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("layouts")]
ALONE = Mesh(0, 1, torch.device("cpu"), "none")
MODEL = {"hidden_size": 24, "num_heads": 6, "num_kv_heads": 2}


@pytest.fixture(scope="module")
def even_world(build_world, tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("even"), **MODEL)


def config(world, folder, **settings) -> VerifyConfig:
    values = {"packs": world.packs, "model": world.model, "output_dir": folder, **settings}
    return VerifyConfig.parse(values, "verify")


def test_four_processes_are_proven_against_one(even_world, tmp_path):
    settings = {"num_processes": 4, "tensor_parallel": 2, "context_parallel": 2, "sharding": "full"}
    wanted = config(even_world, tmp_path / "proof", **settings)
    manifest = proof.run(wanted)
    found = json.loads((tmp_path / "proof" / RESULT_NAME).read_text())
    assert found["layout"] == "data 1 x context 2 x tensor 2, full over 2"
    assert len(found["documents"]) == 8
    laws = {finding["law"]: finding for finding in found["findings"]}
    assert laws.keys() == {"isolation", "regrouping", "one process"}
    assert laws["isolation"]["value"] == 0
    for finding in found["findings"]:
        assert finding["value"] <= finding["bound"]
    assert 0 < laws["one process"]["value"] < 1e-5
    assert proof.run(wanted) == manifest


def test_whole_documents_are_taken_when_no_bound_is_set(even_world, tmp_path):
    taken = proving.first_documents(
        config(even_world, tmp_path, num_documents=5, document_tokens=None)
    )
    order = [even_world.lengths[int(index)] for index in _plan(even_world)[:5]]
    assert [len(tokens) for tokens, _ in taken] == order
    ends = proving.first_documents(config(even_world, tmp_path, num_documents=5, document_tokens=6))
    for (tokens, _), (end, _) in zip(taken, ends, strict=True):
        assert tokens[-6:].tolist() == end.tolist()


def _plan(world):
    from longrun.formats.plans import PackSet

    return PackSet.open(world.packs).plan(0).documents


def test_a_broken_law_ends_the_stage_and_nothing_is_written(even_world, tmp_path, monkeypatch):
    real = decoder.rotation
    monkeypatch.setattr(
        decoder, "rotation", lambda arch, positions, dtype: real(arch, positions * 0, dtype)
    )
    wanted = config(even_world, tmp_path)
    model = proving.build_model(wanted, ALONE, "sdpa")
    documents = proving.first_documents(wanted)
    proving.check_regrouping(model, ALONE, documents, 64)
    monkeypatch.undo()
    with pytest.raises(VerificationError, match=r"one process: gradient of .* \(bound 0.0001\)"):
        proving.check_one_process(model, ALONE, documents, wanted)
    assert not (tmp_path / RESULT_NAME).exists()


def test_a_model_that_does_not_fit_twice_is_not_compared(even_world, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(proving, "free_bytes", lambda device: 10)
    wanted = config(even_world, tmp_path)
    model = proving.build_model(wanted, ALONE, "sdpa")
    assert proving.check_one_process(model, ALONE, [], wanted) == []
    assert "one process: not compared" in caplog.text


def test_wrong_folders_are_refused_before_any_worker_starts(even_world, tmp_path, monkeypatch):
    monkeypatch.setattr(proof, "run_workers", None)
    with pytest.raises(InputError, match=r"absent"):
        proof.run(config(even_world, tmp_path / "proof", model=tmp_path / "absent"))
