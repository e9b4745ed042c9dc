"""A tiny world in real file formats: tokenizer, model, documents and packs."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from longrun.checkpoint import init_model
from longrun.config.stages import InitModelConfig
from longrun.config.training import TrainConfig
from longrun.formats.documents import LINEAGE, ShardContent, write_index
from longrun.formats.plans import PackPlan, PacksInfo
from longrun.formats.stages.manifest import STARTED_NAME, Manifest
from longrun.formats.text.code_style import CodeStyle
from longrun.formats.text.conversation import Conversation, Prompt
from longrun.formats.text.spans import SpanKind

MODES = ["cot", "tir"]
LINE_OFFSET = 1
PACK_SIZE = 64
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|unused|>"]
"""With the bytes 260 tokens, a vocabulary that two ranks can share."""


@dataclass(frozen=True)
class World:
    """Folders of the stages before training."""

    documents: Path
    packs: Path
    model: Path
    lengths: list[int]

    def config(self, output_dir: Path, **settings: Any) -> TrainConfig:
        """Settings of a training of a few seconds."""
        values = {
            "packs": self.packs,
            "model": self.model,
            "output_dir": output_dir,
            "global_batch_size": 4,
            "max_steps": 4,
            "max_epochs": 9,
            "optimizer": {"lr": 1e-2, "warmup_steps": 1},
            "save_interval": 2,
            **settings,
        }
        return TrainConfig.parse(values, "train")


def write_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({sign: index for index, sign in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIALS])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text("{{ messages }}")


def write_split(folder: Path, rng: np.random.Generator, count: int) -> list[int]:
    """Write ``count`` documents: prompt, thinking, for odd ones tool output, answer and stop."""
    folder.mkdir(parents=True)
    if not count:
        return []
    lengths, kinds, firsts, tokens = [], [], [0], []
    for index in range(count):
        spans = [(SpanKind.PROMPT, 5), (SpanKind.THINKING, int(rng.integers(3, 20)))]
        if index % 2:
            spans += [(SpanKind.CODE, 4), (SpanKind.TOOL_OUTPUT, 3)]
        spans += [(SpanKind.ANSWER, 3), (SpanKind.STOP, 1)]
        kinds += [kind for kind, _ in spans]
        lengths += [length for _, length in spans]
        firsts.append(len(lengths))
        start = int(rng.integers(0, 200))
        tokens.append((start + np.arange(sum(n for _, n in spans))) % 256)
        tokens[-1][-1] = 258
    np.concatenate(tokens).astype("<i4").tofile(folder / "00000.bin")
    lineage = np.zeros(count, LINEAGE)
    lineage["line"] = np.arange(count)
    lineage["mode"] = np.arange(count) % 2
    firsts_array = np.array(firsts, np.int64)
    content = ShardContent(
        np.array(lengths, np.int32), np.array(kinds, np.int8), firsts_array, lineage
    )
    write_index(folder, "00000", content)
    return [len(document) for document in tokens]


def pack(lengths: list[int], order: np.ndarray) -> PackPlan:
    """Fill packs one after the other in the given order."""
    documents, starts, room = [], [0], PACK_SIZE
    for index in order:
        if lengths[index] > room:
            starts.append(len(documents))
            room = PACK_SIZE
        documents.append(index)
        room -= lengths[index]
    bounds = [*starts, len(documents)] if documents else [0]
    return PackPlan(np.array(documents, np.int64), np.array(bounds, np.int64))


def make_world(
    root: Path, *, num_documents: int = 40, num_held_out: int = 5, **model: Any
) -> World:
    rng = np.random.default_rng(0)
    documents, packs = root / "documents", root / "packs"
    write_tokenizer(documents / "tokenizer")
    lengths = write_split(documents / "train", rng, num_documents)
    held_out = write_split(documents / "validation", rng, num_held_out)
    sources = {"paths": ["raw.jsonl"], "modes": MODES, "first_lines": {"00000": LINE_OFFSET}}
    (documents / "sources.json").write_text(json.dumps(sources))
    prompts = {mode: Prompt(system="", user="{problem}") for mode in MODES}
    Conversation(
        prompts=prompts,
        chat_template="{{ messages }}",
        code=CodeStyle.named("tool_call"),
        stop="<|im_end|>",
    ).save(documents)
    packs.mkdir()
    plans = [pack(lengths, rng.permutation(num_documents)) for _ in range(2)]
    for epoch, plan in enumerate(plans):
        plan.save(packs, f"epoch-{epoch:03d}")
    pack(held_out, np.arange(len(held_out))).save(packs, "validation")
    num_packs = [len(plan) for plan in plans]
    PacksInfo(
        documents="../documents", pack_size=PACK_SIZE, num_epochs=2, num_packs=num_packs
    ).save(packs)
    settings = {
        "tokenizer": documents / "tokenizer",
        "output_dir": root / "model",
        "num_layers": 2,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_heads": 2,
        "num_kv_heads": 1,
        "max_positions": 256,
        **model,
    }
    init_model.run(InitModelConfig.parse(settings, "init_model"))
    return World(documents, packs, root / "model", lengths)


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def build_world():
    return make_world


def cut_back(step: int, finished: Path, folder: Path) -> None:
    """Make ``folder`` what a training would have left that was killed after ``step`` steps."""
    shutil.copytree(finished, folder)
    manifest = Manifest.read(folder)
    names = ("verb", "fingerprint", "settings", "inputs", "revision", "version")
    started = {name: getattr(manifest, name) for name in names} | {"started_at": 0.0}
    (folder / STARTED_NAME).write_text(json.dumps(started))
    (folder / "manifest.json").unlink()
    for path in [*folder.glob("final*"), *(folder / "checkpoints").iterdir()]:
        if path.name.startswith("final") or path.name > f"step-{step:08d}":
            shutil.rmtree(path)


@pytest.fixture(scope="session")
def interrupt_after():
    return cut_back
