"""The comparison on the CPU: equal work for all, and a ratio against peers that do that work."""

import numpy as np

import train_cpu
from contest import Outcome
from cpu import workload
from cpu.contenders import concatenate, flatten, pad

SETTINGS = workload.Settings(pack_tokens=256, median_length=40, num_packs=3, vocab=64)


def packs(tmp_path, settings=SETTINGS):
    np.savez(tmp_path / workload.PACKS_NAME, **workload.draw_packs(settings))
    return workload.read_packs(tmp_path)


def test_packs_are_full_of_whole_documents_of_mixed_lengths(tmp_path):
    drawn = packs(tmp_path)
    lengths = [len(document.tokens) for pack in drawn for document in pack]
    assert max(lengths) > 2 * min(lengths)
    for pack in drawn:
        assert 0.9 * 256 <= sum(len(document.tokens) for document in pack) <= 256
        assert len({len(document.tokens) for document in pack}) > 1
        for document in pack:
            learned = document.labels != workload.IGNORED
            assert not learned[0]
            assert np.array_equal(document.labels[learned], document.tokens[learned])


def test_the_same_settings_draw_the_same_packs(tmp_path):
    one, other = workload.draw_packs(SETTINGS), workload.draw_packs(SETTINGS)
    assert all(np.array_equal(one[key], other[key]) for key in one)


def test_every_collator_hands_over_the_same_targets(tmp_path):
    (pack, *_) = packs(tmp_path)
    wanted = np.concatenate([d.labels for d in pack])
    wanted = wanted[wanted != workload.IGNORED]
    for collate in (pad, flatten, concatenate):
        labels = np.asarray(collate([pack])["labels"]).ravel()
        assert np.array_equal(labels[labels != workload.IGNORED], wanted)


def outcome(name, speed, losses=(2.0, 1.0)):
    measured = {
        "cpu_tokens_per_second": speed,
        "wall_tokens_per_second": speed,
        "peak_bytes": 1,
        "peak_rise_bytes": 1,
        "losses": list(losses),
    }
    return Outcome(name, "ok", 1.0, measured)


def test_the_ratio_is_to_the_fastest_peer_that_keeps_documents_apart():
    outcomes = {
        "longrun": [outcome("longrun", speed) for speed in (300.0, 310.0, 900.0)],
        "hf-padded": [outcome("hf-padded", 100.0)],
        "hf-packed": [outcome("hf-packed", 155.0, losses=(2.0, 1.5))],
        "trl-packed": [Outcome("trl-packed", "left out", 0.0, problem="trl is not installed")],
        "hf-concatenated": [outcome("hf-concatenated", 800.0)],
    }
    report = train_cpu.summarise(outcomes, workload.Settings(num_packs=2))
    assert (report["fastest_peer"], report["ratio"]) == ("hf-packed", 2.0)
    text = train_cpu.show({**report, "settings": {"dtype": "float32", "threads": 1}})
    assert "Longrun / hf-packed: 2.00 times" in text
    assert "trl is not installed" in text
    assert "5.0e-01" in text
