"""Attention on the CPU, alone: what was tried for packs of many and of few documents.

    python bench/attention_cpu.py --out runs/bench-attention

Forward and backward of packs of 4,096 tokens, 8 query and 2 key-value heads of 64 channels, one
thread, milliseconds of CPU time (the median of five):

``per document``  Longrun's ``sdpa`` backend
``16 bits``       the same without computing short documents in float32
``buckets``       documents of similar length as rows of one padded batch; exact, because a causal
                  mask hides what is padded on the right
``one mask``      the whole pack in one call with the mask of its documents

and, for shares of a document as under context parallelism, ``two parts`` (Longrun's) against
``one mask``.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import contest
from longrun.nn.kernels import processor
from longrun.nn.kernels.segments import Segments, hidden_keys

TOKENS, HEADS, KV_HEADS, HEAD_DIM = 4096, 8, 2, 64
SCALE, REPEATS = HEAD_DIM**-0.5, 5
COUNTS = (125, 80, 50, 20, 8, 1)
SHARES = ((512, 1024), (1024, 2048), (1024, 4096))
BUCKET_GROWTH = 1.25
"""Longest over shortest document of a bucket."""
flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""(do, q, k, v)."""


def draw(num_q: int, num_k: int, dtype: torch.dtype) -> Inputs:
    """Draw the inputs of one layer."""
    generator = torch.Generator().manual_seed(0)
    shapes = 2 * [(num_q, HEADS)] + 2 * [(num_k, KV_HEADS)]
    do, q, k, v = (torch.randn(*s, HEAD_DIM, generator=generator).to(dtype) for s in shapes)
    return do, q, k, v


def lengths_of(count: int) -> list[int]:
    """Return log-normal lengths (sigma 0.6) that sum to a pack."""
    weights = np.random.default_rng(0).lognormal(0, 0.6, count)
    lengths = np.maximum(1, (weights / weights.sum() * TOKENS).astype(int))
    lengths[-1] += TOKENS - lengths.sum()
    return [int(n) for n in lengths]


def segments_of(lengths_q: Sequence[int], lengths_k: Sequence[int]) -> Segments:
    """Return the boundaries of documents."""
    cu_q, cu_k = (
        torch.tensor([0, *lengths]).cumsum(0).to(torch.int32) for lengths in (lengths_q, lengths_k)
    )
    return cu_q, cu_k, max(lengths_q), max(lengths_k)


def per_document(inputs: Inputs, segments: Segments) -> None:
    """Attend as Longrun does."""
    do, q, k, v = inputs
    o, lse = processor.forward(q, k, v, segments, SCALE)
    processor.backward(do, (q, k, v, o, lse), segments, SCALE)


def in_16_bits(inputs: Inputs, segments: Segments) -> None:
    """Attend as Longrun does, without its float32 for short documents."""
    with mock.patch.object(processor, "_widen", lambda x: x):
        per_document(inputs, segments)


def in_buckets(inputs: Inputs, segments: Segments) -> None:
    """Attend to padded batches of documents of similar length."""
    starts = segments[0].tolist()
    spans = sorted(pairwise(starts), key=lambda span: span[0] - span[1])
    buckets: list[list[tuple[int, int]]] = []
    for start, stop in spans:
        first = buckets[-1][0] if buckets else None
        if first and first[1] - first[0] <= max((stop - start) * BUCKET_GROWTH, stop - start + 8):
            buckets[-1].append((start, stop))
        else:
            buckets.append([(start, stop)])
    for bucket in buckets:
        _attend_bucket(inputs, bucket)


def _attend_bucket(inputs: Inputs, bucket: list[tuple[int, int]]) -> None:
    longest = bucket[0][1] - bucket[0][0]
    rows = torch.zeros(len(bucket), longest, dtype=torch.int64)
    real = torch.zeros(len(bucket), longest, dtype=torch.bool)
    for index, (start, stop) in enumerate(bucket):
        rows[index, : stop - start] = torch.arange(start, stop)
        real[index, : stop - start] = True
    do, q, k, v = (x[rows.view(-1)].view(*rows.shape, *x.shape[1:]) for x in inputs)
    do = (do * real[..., None, None]).transpose(1, 2)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    o, lse = flash(q, k, v, 0.0, True, scale=SCALE)
    gradients = flash_backward(do, q, k, v, o, lse, 0.0, True, scale=SCALE)
    for gathered in (o, *gradients):
        gathered.transpose(1, 2)[real]  # what is scattered back to the pack


def in_one_mask(inputs: Inputs, segments: Segments) -> None:
    """Attend to the whole pack under one mask of queries times keys."""
    do, q, k, v = (x.transpose(0, 1)[None] for x in inputs)
    mask = torch.full((q.shape[2], k.shape[2]), -torch.inf, dtype=q.dtype)
    for (q0, q1), (k0, k1) in zip(
        pairwise(segments[0].tolist()), pairwise(segments[1].tolist()), strict=True
    ):
        hidden = hidden_keys(q1 - q0, k1 - k0, q.device)
        mask[q0:q1, k0:k1] = torch.zeros(hidden.shape, dtype=q.dtype).masked_fill_(
            hidden, -torch.inf
        )
    o, lse = flash(q, k, v, 0.0, False, attn_mask=mask, scale=SCALE)
    flash_backward(do, q, k, v, o, lse, 0.0, False, attn_mask=mask, scale=SCALE)


def milliseconds(function: Callable[[Inputs, Segments], None], *arguments: object) -> float:
    """Return the median CPU time of a call after one that does not count."""
    function(*arguments)  # type: ignore[arg-type]  # the two arguments of every function here
    taken = []
    for _ in range(REPEATS):
        began = time.process_time()
        function(*arguments)  # type: ignore[arg-type]
        taken.append(time.process_time() - began)
    return 1e3 * statistics.median(taken)


def measure_packs(dtype: torch.dtype) -> list[list[str]]:
    """Return one row per number of documents."""
    ways = (per_document, in_16_bits, in_buckets, in_one_mask)
    rows = []
    for count in COUNTS:
        lengths = lengths_of(count)
        arguments = draw(TOKENS, TOKENS, dtype), segments_of(lengths, lengths)
        rows.append([str(count), *(f"{milliseconds(way, *arguments):.0f}" for way in ways)])
    return rows


def measure_shares(dtype: torch.dtype) -> list[list[str]]:
    """Return one row per share."""
    rows = []
    for num_q, num_k in SHARES:
        arguments = draw(num_q, num_k, dtype), segments_of([num_q], [num_k])
        times = (milliseconds(way, *arguments) for way in (per_document, in_one_mask))
        rows.append([f"{num_q} of {num_k}", *(f"{time_ms:.0f}" for time_ms in times)])
    return rows


def main() -> None:
    """Measure and print every table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/bench-attention"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        packs, shares = measure_packs(dtype), measure_shares(dtype)
        header = ["documents", "per document", "16 bits", "buckets", "one mask"]
        print(f"\n{dtype}, milliseconds\n\n{contest.table(header, packs)}\n")
        print(contest.table(["queries of keys", "two parts", "one mask"], shares), flush=True)
        found[str(dtype)] = {"packs": packs, "shares": shares}
    document = {"processor": contest.processor_name(), "versions": contest.versions(("torch",))}
    contest.write_json(out / "attention_cpu.json", {**document, "milliseconds": found})


if __name__ == "__main__":
    main()
