"""Timing the backends: what is measured, and what is left out."""

import logging
from dataclasses import replace

import pytest
import torch

from longrun.nn.kernels import KERNELS
from longrun.nn.probe import Heads, time_backends

CPU = torch.device("cpu")
HEADS = Heads(num_heads=4, num_kv_heads=2, head_dim=16)
SHARES = [(3, 7), (1, 1), (20, 33)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_times_every_backend_on_the_lengths_it_is_given(dtype):
    times = time_backends(["sdpa", "reference"], SHARES, HEADS, dtype, CPU)
    assert set(times) == {"sdpa", "reference"}
    assert all(0 < ms < 1000 for ms in times.values())


def test_a_longer_document_takes_longer():
    short, long = (
        time_backends(["reference"], [(n, n)], HEADS, torch.float32, CPU)["reference"]
        for n in (8, 800)
    )
    assert long > 3 * short


def spoil(monkeypatch, name, **functions):
    monkeypatch.setitem(KERNELS, name, replace(KERNELS[name], **functions))


def test_leaves_out_a_backend_that_computes_something_else(monkeypatch, caplog):
    exact = KERNELS["reference"].forward

    def unmasked(q, k, v, segments, scale):
        out, lse = exact(q, k, v, segments, scale)
        return out * 1.1, lse

    spoil(monkeypatch, "reference", forward=unmasked)
    caplog.set_level(logging.WARNING)
    assert set(time_backends(["sdpa", "reference"], SHARES, HEADS, torch.float32, CPU)) == {"sdpa"}
    assert "attention backend reference left out: it differs from sdpa by 0.1" in caplog.text


def test_leaves_out_a_backend_that_fails_and_says_why(monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("no plan for this shape")

    spoil(monkeypatch, "reference", forward=fail)
    assert set(time_backends(["sdpa", "reference"], SHARES, HEADS, torch.float32, CPU)) == {"sdpa"}
    assert "reference left out: it fails here: no plan for this shape" in caplog.text


def test_fails_when_the_backend_that_sets_what_is_right_fails(monkeypatch):
    def fail(*_):
        raise RuntimeError("no plan for this shape")

    spoil(monkeypatch, "sdpa", backward=fail)
    with pytest.raises(RuntimeError, match="no plan for this shape"):
        time_backends(["sdpa", "reference"], SHARES, HEADS, torch.float32, CPU)
