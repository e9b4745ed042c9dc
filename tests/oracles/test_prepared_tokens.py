"""Documents of ``prepare`` beside transformers' own reading of the same folder and messages."""

import json
import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer

from longrun.checkpoint.tokenizer_reading import Question, Reading, ask_transformers
from longrun.config.stages import PrepareConfig
from longrun.data.documents import prepare
from longrun.errors import InputError
from longrun.formats.documents import DocumentSet
from longrun.formats.text.conversation import Conversation
from longrun.formats.text.exact_tokenizer import ExactTokenizer

WORDS = ["sum", "of", "two", "and", "three", "is", "five", "so", "the", "answer", "take", "print"]
ROLES = "{% for m in messages %}"
HEADED = (
    "{{ bos_token }}" + ROLES + "{{ '<|head|>' + m['role'] + '<|foot|>\n' + (m['content'] | trim) +"
    " '<|done|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant<|foot|>\n' }}{% endif %}"
)
DATED = HEADED.replace("{{ bos_token }}", "{{ bos_token + strftime_now('%d %B %Y') + '<|done|>' }}")
OPENING = (
    ROLES + "{% if m['role'] == 'user' %}{{ bos_token + '<|user|>' + m['content'] }}{% else %}"
    "{{ '<|bot|>' + m['content'].split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|bot|><think>\n' }}{% endif %}"
)
THINKING = (
    ROLES + "{% set c = m['content'] %}{% if m['role'] == 'assistant' and '</think>' not in c %}"
    "{% set c = '<think>\n\n</think>\n\n' + c %}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + c + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INSTRUCTION = (
    "{{ bos_token }}"
    + ROLES
    + "{% if m['role'] == 'user' %}{{ '[ASK] ' + m['content'] + ' [/ASK]' }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)


@dataclass
class Family:
    """A tokenizer folder in the manner of a family; every text is made up."""

    template: str
    special: list[str]
    config: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    """Further files of the folder, by name."""
    spaced: bool = False
    """SentencePiece's kind: marks for spaces, bytes for what is unknown, a space in front."""


NAMED = {
    "bos_token": "<|begin|>",
    "eos_token": "<|over|>",
    "tokenizer_class": "PreTrainedTokenizerFast",
}
SPECIAL = ["<|begin|>", "<|over|>", "<|head|>", "<|foot|>", "<|done|>", "<|user|>", "<|bot|>"]
SPM = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
FAMILIES = {
    "a BOS by template and by post-processor": Family(HEADED, SPECIAL, NAMED),
    "names in special_tokens_map.json alone": Family(
        HEADED,
        SPECIAL,
        {"tokenizer_class": "PreTrainedTokenizerFast"},
        {
            "special_tokens_map.json": {
                "bos_token": "<|begin|>",
                "eos_token": {"content": "<|done|>"},
            }
        },
    ),
    "saved by transformers 5": Family(
        HEADED,
        SPECIAL,
        {
            **NAMED,
            "tokenizer_class": "TokenizersBackend",
            "backend": "tokenizers",
            "extra_special_tokens": ["<|head|>", "<|foot|>"],
        },
    ),
    "the date of today": Family(DATED, SPECIAL, NAMED),
    "an end token inside that is not the stop": Family(
        HEADED.replace("{{ bos_token }}", "{{ bos_token + eos_token }}"), SPECIAL, NAMED
    ),
    "an empty thinking where there is none": Family(
        THINKING, ["<|im_start|>", "<|im_end|>"], {"eos_token": "<|im_end|>"}
    ),
    "a class that splits by rules of its own": Family(
        HEADED, SPECIAL, {**NAMED, "tokenizer_class": "GPT2Tokenizer"}
    ),
    "a class that puts spaces by rules of its own": Family(
        INSTRUCTION, [], {**SPM, "tokenizer_class": "LlamaTokenizer"}, spaced=True
    ),
    "a space in front, tags as text": Family(INSTRUCTION, [], SPM, spaced=True),
    "a space in front, tags as tokens": Family(INSTRUCTION, ["[ASK]", "[/ASK]"], SPM, spaced=True),
}
NASTY = [
    "  spaces around  \n\n",
    "line\r\nbreak, \u2028 and e\u0301, \u0301 alone",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u1112\u1161\u11ab \u4e2d \u2581 x",
    "many          spaces \u00a0 here",
]
PLAIN = [
    "<think>\nAdd them.\n</think>\nIt is \\boxed{2}.",
    "<think>\n\u00e9 and \U0001f600 so\n</think>\n\nIt is 4",
    "no thinking, \\boxed{10}",
]
RECORDS = [
    {"problem": f"{problem} {number}?", "generated_solution": solution, "inference_mode": "cot"}
    for number, (problem, solution) in enumerate(
        (problem, solution) for problem in ["What is 1 + ", *NASTY] for solution in PLAIN
    )
]


def write(family: Family, folder: Path) -> Path:
    rng = random.Random(0)
    lines = [" ".join(rng.choices(WORDS, k=8)) + " 1 + 2 = 3.\n" for _ in range(200)]
    if family.spaced:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
        strip = decoders.Strip(" ", 1, 0)
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
        )
        pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=pieces, show_progress=False)
        tokenizer.train_from_iterator([word for line in lines for word in line.split()], trainer)
        raw = json.loads(tokenizer.to_str())
        raw["added_tokens"] = raw["added_tokens"][:3]
        tokenizer = Tokenizer.from_str(json.dumps(raw))
        begin = "<s>"
    else:
        tokenizer = Tokenizer(models.BPE())
        split = Regex(
            r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"
        )
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(split, "isolated"), byte_level]
        )
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, initial_alphabet=sorted(alphabet), show_progress=False
        )
        tokenizer.train_from_iterator(lines, trainer)
        begin = family.special[0]
    tokenizer.add_special_tokens([AddedToken(one, normalized=False) for one in family.special])
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in ("<think>", "</think>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {**family.config, "chat_template": family.template}
    for name, content in {"tokenizer_config.json": config, **family.more}.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def prepare_all(tokenizer: Path, folder: Path, **settings: object) -> Path:
    rows = "".join(json.dumps(record) + "\n" for record in RECORDS)
    (folder / "records.jsonl").write_text(rows)
    values = {"data": folder / "records.jsonl", "output_dir": folder / "out", "num_workers": 1}
    config = PrepareConfig.parse({**values, "tokenizer": tokenizer, **settings}, "prepare")
    prepare.run(config)
    return folder / "out"


def tokens_of(tokenizer: Any, messages: list[dict[str, str]], *, prompt: bool) -> list[int]:
    return tokenizer.apply_chat_template(
        messages, add_generation_prompt=prompt, tokenize=True, return_dict=False
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_documents_are_what_transformers_makes_of_the_same_messages(name, tmp_path):
    folder = write(FAMILIES[name], tmp_path / "tokenizer")
    out = prepare_all(folder, tmp_path)
    documents = DocumentSet.open(out / "train")
    conversation = Conversation.load(out)
    exact = ExactTokenizer(out / "tokenizer", conversation.stop)
    assert len(documents) == len(RECORDS)
    for place in (folder, out / "tokenizer"):
        theirs = AutoTokenizer.from_pretrained(place)
        for position, record in enumerate(RECORDS):
            document = documents[position]
            mine = document.tokens.tolist()
            prompt = int(document.span_lengths[0])
            user = {"role": "user", "content": conversation.fill("cot", record)[-1]}
            answer = {"role": "assistant", "content": record["generated_solution"]}
            assert mine[:prompt] == tokens_of(theirs, [user], prompt=True)
            assert mine == tokens_of(theirs, [user, answer], prompt=False)[: len(mine)]
            assert exact.encode_prompt(conversation, "cot", record) == mine[:prompt]
            assert mine[-1] == exact.stop_id
            assert document.span_lengths[-1] == 1


def test_a_prompt_that_opens_the_thinking_opens_it_once(tmp_path):
    folder = write(Family(OPENING, SPECIAL, NAMED), tmp_path / "tokenizer")
    out = prepare_all(folder, tmp_path)
    documents = DocumentSet.open(out / "train")
    theirs = AutoTokenizer.from_pretrained(folder)
    ledger = json.loads((out / "manifest.json").read_text())["ledger"]
    without = sum("</think>" not in record["generated_solution"] for record in RECORDS)
    assert ledger["dropped"] == {"no thinking": without}
    kept = [record for record in RECORDS if "</think>" in record["generated_solution"]]
    for position, record in enumerate(kept):
        document = documents[position]
        text = theirs.decode(document.tokens.tolist(), clean_up_tokenization_spaces=False)
        solution = record["generated_solution"]
        assert text.endswith(f"<|bot|>{solution}<|over|>")
        assert text.count("<think>") == 1


def test_the_day_of_prepare_stays(tmp_path):
    folder = write(Family(DATED, SPECIAL, NAMED), tmp_path / "tokenizer")
    out = prepare_all(folder, tmp_path, template_date="2020-02-29")
    conversation = Conversation.load(out)
    assert conversation.date == "2020-02-29"
    assert "29 February 2020" in conversation.render("cot", RECORDS[0])
    exported = AutoTokenizer.from_pretrained(out / "tokenizer")
    user = {"role": "user", "content": conversation.fill("cot", RECORDS[0])[-1]}
    text = exported.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
    assert text == conversation.render("cot", RECORDS[0])


def test_a_tokenizer_that_transformers_reads_otherwise_is_refused_with_both_readings(tmp_path):
    config = {**NAMED, "split_special_tokens": True}
    folder = write(Family(HEADED, SPECIAL, config), tmp_path / "tokenizer")
    with pytest.raises(InputError) as caught:
        prepare_all(folder, tmp_path)
    assert "token 0 of the prompt is read in two ways: ['<|begin|>'" in str(caught.value)
    assert "here and ['<', '|', 'b'" in str(caught.value)


def test_another_process_says_what_this_one_would(tmp_path):
    folder = write(FAMILIES["a class that splits by rules of its own"], tmp_path / "tokenizer")
    messages = [{"role": "user", "content": "1 + 1?"}]
    named = {"bos_token": "<|begin|>", "eos_token": "<|done|>"}
    question = Question(str(folder), HEADED, named, [messages], ["It is 2.", "<|done|>"])
    here = ask_transformers(question)
    command = [sys.executable, "-m", "longrun.checkpoint.tokenizer_reading"]
    asked = msgspec.json.encode(question)
    done = subprocess.run(command, input=asked, capture_output=True, check=True)
    assert msgspec.json.decode(done.stdout, type=Reading) == here
    assert here.content is not None
    with pytest.raises(InputError, match="transformers cannot read this tokenizer"):
        ask_transformers(Question(str(tmp_path / "none"), HEADED, named, [], []))
