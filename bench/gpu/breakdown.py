"""Where the time of one step of Longrun goes, from one profiled step."""

import re
import time
from collections import defaultdict
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from gpu.cases import Case, draw_steps, phases
from gpu.meter import synchronise
from gpu.ours import Engine

PARTS = (
    ("attention", r"flash|fmha|attention|attend|sdpa"),
    ("matrix products", r"gemm|nvjet|cutlass|cublas|::mm$|::addmm|::bmm|xmma"),
    ("optimizer and norm", r"adam|multi_tensor|norm"),
    ("copies", r"memcpy|memset|copy|::cat|fill"),
    ("pointwise and the rest", r""),
)
"""Name -> what the name of a kernel (on the CPU: of an operation) contains; first match wins."""
LARGEST = 15


def measure(case: Case, *, attention: str, recompute: str, compiled: bool) -> dict[str, Any]:
    """Return seconds of each part, idle time, and the largest kernels."""
    engine = Engine(case, attention=attention, recompute=recompute, compiled=compiled)
    steps = draw_steps(case, phases(case)[0])
    for packs in steps[: case.warmup]:
        engine.step(packs)
    on_device = torch.cuda.is_available()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_device else [])]
    synchronise()
    with profile(activities=kinds) as profiler:
        began = time.perf_counter()
        engine.step(steps[0])
        synchronise()
        wall = time.perf_counter() - began
    times: defaultdict[str, float] = defaultdict(float)
    for event in profiler.events():
        if on_device and event.device_type == DeviceType.CUDA:
            times[event.name] += event.self_device_time_total / 1e6
        elif not on_device:
            times[event.name] += event.self_cpu_time_total / 1e6
    parts: defaultdict[str, float] = defaultdict(float)
    for name, seconds in times.items():
        parts[next(part for part, word in PARTS if re.search(word, name, re.I))] += seconds
    largest = sorted(times.items(), key=lambda item: -item[1])[:LARGEST]
    return {
        "wall_seconds": wall,
        "idle_seconds": wall - sum(parts.values()),
        "parts": dict(parts),
        "largest": {name[:120]: seconds for name, seconds in largest},
    }
