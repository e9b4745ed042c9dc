"""What others do from raw records to packs, in their own libraries, for comparison.

``trl`` is Hugging Face ``datasets.map`` with a fast tokenizer and TRL's best-fit-decreasing
packing. ``lists`` keeps tokens in Python lists and packs shuffled lengths by first fit, probing
every pack anew, as packers that were written for small data do.
"""

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np

PACK_SIZE = 32_768
_SYSTEM = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n"
_HEADER = "<|im_end|>\n<|im_start|>assistant\n"


def measure_trl(records: Path, tokenizer: Path, folder: Path) -> dict[str, float]:
    """Return CPU seconds of the work and the number of packs; loading is not counted."""
    import datasets
    from transformers import AutoTokenizer
    from trl.data_utils import pack_dataset

    datasets.disable_progress_bars()
    encode = AutoTokenizer.from_pretrained(tokenizer)

    def tokenize(record: dict[str, Any]) -> dict[str, list[int]]:
        prompt = encode(_prompt(record), add_special_tokens=False)["input_ids"]
        answer = encode(record["generated_solution"] + "<|im_end|>", add_special_tokens=False)
        ids = prompt + answer["input_ids"]
        return {
            "input_ids": ids,
            "completion_mask": [0] * len(prompt) + [1] * (len(ids) - len(prompt)),
        }

    began = time.process_time()
    data = datasets.load_dataset(
        "json", data_files=str(records), split="train", cache_dir=str(folder / "cache")
    )
    data = data.map(tokenize, remove_columns=data.column_names)
    data = data.filter(lambda row: len(row["input_ids"]) <= PACK_SIZE)
    packed = pack_dataset(data, PACK_SIZE, strategy="bfd", map_kwargs={"batch_size": 1000})
    packed.save_to_disk(str(folder / "packed"))
    return {"cpu_seconds": time.process_time() - began, "packs": len(packed)}


def measure_lists(records: Path, tokenizer: Path, folder: Path) -> dict[str, float]:
    """Return CPU seconds of the work and the number of packs; loading is not counted."""
    from tokenizers import Tokenizer

    encode = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode
    began = time.process_time()
    rows = []
    with open(records, encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            prompt = encode(_prompt(record), add_special_tokens=False).ids
            answer = encode(record["generated_solution"] + "<|im_end|>", add_special_tokens=False)
            if len(prompt) + len(answer.ids) <= PACK_SIZE:
                mask = [False] * len(prompt) + [True] * len(answer.ids)
                rows.append((prompt + answer.ids, mask))
    random.Random(0).shuffle(rows)
    packs = first_fit_by_probing([len(ids) for ids, _ in rows], PACK_SIZE)
    tokens = np.full((len(packs), PACK_SIZE), -1, np.int32)
    masks = np.ones((len(packs), PACK_SIZE), np.bool_)
    for number, members in enumerate(packs):
        ids = [token for row in members for token in rows[row][0]]
        tokens[number, : len(ids)] = ids
        masks[number, : len(ids)] = [flag for row in members for flag in rows[row][1]]
    np.save(folder / "tokens.npy", tokens)
    np.save(folder / "masks.npy", masks)
    return {"cpu_seconds": time.process_time() - began, "packs": len(packs)}


def first_fit_by_probing(lengths: list[int], pack_size: int) -> list[list[int]]:
    """Return the documents of each pack; every probe adds up the pack anew: quadratic."""
    packs: list[list[int]] = []
    for document, length in enumerate(lengths):
        for members in packs:
            if sum(lengths[one] for one in members) + length <= pack_size:
                members.append(document)
                break
        else:
            packs.append([document])
    return packs


def first_fit(lengths: np.ndarray, pack_size: int) -> np.ndarray:
    """Return [N] the pack of each document: the same packs as by probing, from a tree of rooms."""
    leaves = 1 << (len(lengths) - 1).bit_length()
    room = [pack_size] * (2 * leaves)
    packs = np.empty(len(lengths), np.int64)
    for document, length in enumerate(lengths.tolist()):
        node = 1
        while node < leaves:
            node = 2 * node if room[2 * node] >= length else 2 * node + 1
        packs[document] = node - leaves
        room[node] -= length
        while node > 1:
            node //= 2
            left, right = room[2 * node], room[2 * node + 1]
            room[node] = left if left >= right else right
    return packs


def _prompt(record: dict[str, Any]) -> str:
    return f"{_SYSTEM}Solve the problem.\n\n{record['problem']}{_HEADER}"
