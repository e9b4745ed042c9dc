"""The hostile programs of the tests, by mode and user: how many held, and which did not.

    python bench/attack.py

Started by root it also runs them as an ordinary user. Prints one line per mode and user, then one
per program that did not hold.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "evaluation" / "sandbox"))
from attack import ORDINARY_USER, run_as


def main() -> None:
    print(f"{'mode':<12}{'user':<8}{'held':>6}{'failed':>8}{'not promised':>14}{'seconds':>9}")
    failed = {}
    for mode in ("bubblewrap", "process"):
        for uid in dict.fromkeys((os.geteuid(), ORDINARY_USER)):
            began = time.monotonic()
            outcome = run_as(uid, mode)
            if "cannot" in outcome:
                print(f"{mode:<12}{uid:<8}not run: {outcome['cannot']}")
                continue
            counts = [len(outcome[kind]) for kind in ("held", "failed", "skipped")]
            took = time.monotonic() - began
            print(f"{mode:<12}{uid:<8}{counts[0]:>6}{counts[1]:>8}{counts[2]:>14}{took:>9.0f}")
            failed[mode, uid] = outcome["failed"]
    for (mode, uid), programs in failed.items():
        for name, why in programs.items():
            print(f"{mode}, user {uid}: {name}: {why}")


if __name__ == "__main__":
    main()
