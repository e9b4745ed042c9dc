"""Which encoder makes the tokens of real tokenizers, and its speed beside ``tokenizers``.

    python bench/tokenizers_zoo.py [--records FILE] [--more NAME=FOLDER]

Every tokenizer encodes the same solutions; the tokens of both encoders are compared. At the end
``longrun prepare`` runs with Llama 3.1's tokenizer, the start-up check included. Rates are
megabytes of text per CPU second, over all threads of the process and its children.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corpus import generated_rows, read_rows, write_corpus
from longrun.data.documents.engines import encode_fast, encode_fast_continuing, load_fast
from longrun.formats.text.exact_tokenizer import ExactTokenizer
from longrun.formats.text.tokenizer_folder import named_tokens
from zoo import FAMILIES, NotFetchedError, find_tokenizer

RESULT = Path(__file__).parent / "results" / "tokenizers_zoo.json"
_FAST_BYTES, _SLOW_BYTES, _PREPARED_BYTES = 24_000_000, 1_000_000, 300_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=Path, nargs="*", help="JSONL with solutions")
    parser.add_argument("--more", nargs="*", default=[], help="NAME=FOLDER of further tokenizers")
    options = parser.parse_args()
    rows = read_rows(options.records) if options.records else generated_rows()
    folders = dict(one.split("=", 1) for one in options.more)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "records.jsonl"
        write_corpus(data, rows, _FAST_BYTES, seed=0)
        texts = [json.loads(line)["generated_solution"] for line in data.open(encoding="utf-8")]
        found = {}
        for name in [*FAMILIES, *folders]:
            try:
                folder = Path(folders[name]) if name in folders else find_tokenizer(name)
            except NotFetchedError as error:
                print(f"{name}: {error}")
                continue
            found[name] = measure(folder, texts)
            print(name, found[name], flush=True)
        found["prepare, Llama 3.1"] = measure_prepare(rows, Path(scratch))
    print(found["prepare, Llama 3.1"])
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


def measure(folder: Path, texts: list[str]) -> dict[str, object]:
    """Return the encoder of a tokenizer and the rates of both."""
    tokenizer = ExactTokenizer(folder, named_tokens(folder)["eos_token"])
    # Look-alikes of control tokens are text in documents, and prepare encodes those apart.
    texts = [text for text in texts if not tokenizer.holds_control(text)]
    few = texts[: max(1, len(texts) * _SLOW_BYTES // _FAST_BYTES)]
    seconds, expected = timed(lambda: [tokenizer.encode_text(text) for text in few])
    slow = size_of(few) / seconds / 1e6
    found: dict[str, object] = {"tokenizers": round(slow, 2)}
    encoded = [text.encode() for text in texts]
    try:
        engine = load_fast(tokenizer)
    except (RuntimeError, ValueError) as error:
        return found | {"encoder": "tokenizers", "why": str(error).splitlines()[0]}
    seconds, (tokens, bounds) = timed(lambda: encode_fast(engine, encoded))
    same = all(
        tokens[bounds[at] : bounds[at + 1]].tolist() == ids for at, ids in enumerate(expected)
    )
    if tokenizer.puts_space_in_front:
        going_on = encode_fast_continuing(tokenizer, encoded[: len(few)])
        same = same and all(
            one.tolist() == tokenizer.encode_with_begins(text, continues=True)[0]
            for one, text in zip(going_on, few, strict=True)
        )
    fast = size_of(texts) / seconds / 1e6
    return found | {
        "encoder": "gigatoken" if same else "tokenizers",
        "gigatoken": round(fast, 1),
        "times": round(fast / slow),
        "compared tokens": sum(map(len, expected)),
    }


def measure_prepare(rows: list[dict[str, str]], scratch: Path) -> dict[str, object]:
    """Return the rate of the whole of ``prepare`` beside ``tokenizers`` on its solutions."""
    data = scratch / "many.jsonl"
    write_corpus(data, rows, _PREPARED_BYTES, seed=1)
    folder = find_tokenizer("Llama 3.1")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "longrun", "prepare", f"data={data}", f"tokenizer={folder}"]
    command += [f"output_dir={scratch}/out", "missing_budget=pass"]
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    tokenizer = ExactTokenizer(folder, named_tokens(folder)["eos_token"])
    few = []
    with data.open(encoding="utf-8") as lines:
        while size_of(few) < _SLOW_BYTES:
            few.append(json.loads(next(lines))["generated_solution"])
    slow_seconds, _ = timed(lambda: [tokenizer.encode_text(text) for text in few])
    slow = size_of(few) / slow_seconds / 1e6
    rate = data.stat().st_size / seconds / 1e6
    return {"prepare": round(rate, 1), "tokenizers": round(slow, 2), "times": round(rate / slow, 1)}


def size_of(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.process_time()
    result = work()
    return time.process_time() - begin, result


if __name__ == "__main__":
    main()
