"""One contender in a process of its own: ``python -m cpu.contender NAME FOLDER RESULT``."""

import sys
from pathlib import Path

import contest
from cpu.workload import read_packs, read_settings


def main() -> None:
    name, folder, result = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    import torch

    from cpu.contenders import CONTENDERS
    from cpu.meter import Meter

    _, train, packages, _ = CONTENDERS[name]
    lacking = contest.missing(packages)
    if lacking is not None:
        contest.write_json(result, {"left_out": f"{lacking} is not installed"})
        return
    settings = read_settings(folder)
    torch.set_num_threads(settings.threads)
    meter = train(folder, settings, Meter)
    tokens = [sum(len(d.tokens) for d in pack) for pack in read_packs(folder)]
    contest.write_json(result, meter.report(tokens, settings.warmup_packs))


if __name__ == "__main__":
    main()
