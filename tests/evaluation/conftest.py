"""A tiny tokenizer and tiny Qwen2 models, made on the spot."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM

from longrun.config.evaluation import GenerateConfig
from longrun.formats.predictions import MODELS_NAME, write_rows
from longrun.formats.stages.stage import open_stage
from longrun.formats.text.code_style import CodeStyle
from longrun.formats.text.conversation import Conversation, Prompt
from longrun.formats.text.exact_tokenizer import ExactTokenizer
from longrun.formats.text.tokenizer_folder import save_tokenizer

torch.set_num_threads(1)  # models this small gain nothing from more, and wait for them under load
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = (
    "<think>\nLet a = 7, b = 12. Find a + b.\n<tool_call>\nx = 6\nprint(x * 7)\n</tool_call>\n"
    "```output\n42\n```\n```system\nRemaining code executions: 1. Use them well.\n```\n</think>\n"
    "The answer is \\boxed{42}. Judgment: 0"
)


@pytest.fixture(scope="session")
def conversation() -> Conversation:
    return Conversation(
        prompts={
            "cot": Prompt("", "{problem}"),
            "tir": Prompt("", "{problem} {total_code_executions}"),
            "genselect": Prompt("", "{problem}"),
        },
        chat_template=TEMPLATE,
        code=replace(
            CodeStyle.named("tool_call"),
            remaining_notice="Remaining code executions: {remaining}. Use them well.",
            exhausted_notice="No code executions are left.",
        ),
        stop="<|im_end|>",
    )


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory, conversation: Conversation) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d|\n| ?\p{L}+| ?[^\s\p{L}\d]+|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    tags = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    plain = tmp_path_factory.mktemp("plain-tokenizer")
    tokenizer.save(str(plain / "tokenizer.json"))
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(plain, folder, conversation)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> ExactTokenizer:
    return ExactTokenizer(tokenizer_folder, "<|im_end|>")


@pytest.fixture(scope="session")
def make_model(
    tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path, conversation: Conversation
) -> Callable[..., Path]:
    """Write a model folder: random, or trained until it has memorised token sequences."""

    def make(memorised: list[list[int]] | None = None, *, seed: int = 0) -> Path:
        torch.manual_seed(seed)
        vocabulary = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
        config = Qwen2Config(
            vocab_size=vocabulary.get_vocab_size(),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            initializer_range=0.3 if memorised is None else 0.05,
            bos_token_id=None,
            eos_token_id=2,
            pad_token_id=2,
        )
        model = Qwen2ForCausalLM(config)
        if memorised is not None:
            _memorise(model, memorised)
        folder = tmp_path_factory.mktemp("model")
        model.save_pretrained(folder)
        save_tokenizer(tokenizer_folder, folder, conversation)
        conversation.save(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def random_model(make_model: Callable[..., Path]) -> Path:
    return make_model()


@pytest.fixture
def write_benchmark(tmp_path: Path) -> Callable[..., Path]:
    def write(rows: list[dict[str, object]], name: str = "benchmark.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def generated(tmp_path):
    """Write what ``generate`` would have written."""

    def write(name, benchmarks, counts=None, **options):
        folder = tmp_path / name
        config = GenerateConfig.parse(
            {
                "output_dir": str(folder),
                "models": {"unread": __file__},
                "benchmarks": [{"name": name, "path": __file__} for name in benchmarks],
                **options,
            },
            "generate",
        )
        with open_stage("generate", config) as stage:
            for benchmark, models in benchmarks.items():
                for label, rows in models.items():
                    (folder / label).mkdir(exist_ok=True)
                    write_rows(folder / label / f"{benchmark}.jsonl", rows)
            labels = list(next(iter(benchmarks.values())))
            (folder / MODELS_NAME).write_text(json.dumps(labels))
            stage.finish(counts=counts or {})
        return folder

    return write


@pytest.fixture(scope="session")
def tool_user(make_model, tokenizer, conversation):
    """A model that has memorised one solution with two code calls; the outputs are not its own."""
    code = conversation.code
    solution = [
        "<think>\n",
        "<tool_call>\nx = 6\n</tool_call>\n",
        code.format_output(""),
        code.format_notice(1),
        "<tool_call>\nprint(x * 7)\n</tool_call>\n",
        code.format_output("42\n"),
        code.format_notice(0),
        "</think>\n",
        "The answer is \\boxed{42}.",
    ]
    tokens = [token for piece in solution for token in tokenizer.encode_text(piece)]
    prompts = [
        tokenizer.encode_prompt(
            conversation, "tir", {"problem": "Find 6 * 7.", "total_code_executions": budget}
        )
        for budget in (2, 0)
    ]
    memorised = [[*prompt, *tokens, tokenizer.stop_id] for prompt in prompts]
    return make_model(memorised), solution, len(tokens) + 1


def _memorise(model: Qwen2ForCausalLM, sequences: list[list[int]]) -> None:
    longest = max(map(len, sequences))
    tokens = torch.full((len(sequences), longest), 2)
    labels = torch.full((len(sequences), longest), -100)
    for index, sequence in enumerate(sequences):
        tokens[index, : len(sequence)] = torch.tensor(sequence)
        labels[index, : len(sequence)] = torch.tensor(sequence)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(300):
        loss = model(input_ids=tokens, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.02:
            return
    raise AssertionError(f"the model did not memorise: loss {loss.item():.3f}")
