"""From a benchmark problem to the tokens that the model reads: exactly what training saw.

The conversation decides the text, the model's own tokenizer the tokens. Before anything is
generated both are compared with the chat template that the model folder carries. It never loads
weights.
"""

import logging
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from longrun.checkpoint.model_folder import CONFIG_NAME, read_config
from longrun.errors import ConfigError, InputError
from longrun.formats.predictions import Problem
from longrun.formats.text.conversation import CONVERSATION_NAME, Conversation
from longrun.formats.text.exact_tokenizer import TOKENIZER_FILE, ExactTokenizer

log = logging.getLogger(__name__)


def find_conversation(model: Path, named: Path | None) -> Conversation:
    """Return the conversation of a model: the one ``named``, else the one it carries.

    Raises:
        ConfigError: there is neither.
        InputError: it is damaged, or absent where it was named.
    """
    if named is not None:
        return Conversation.load(named)
    if not (model / CONVERSATION_NAME).is_file():
        raise ConfigError(
            f"generate.conversation is not set and {model} has no {CONVERSATION_NAME};"
            " set conversation to the output folder of prepare"
        )
    return Conversation.load(model)


def check_model_folder(folder: Path, *, with_model: bool = True) -> None:
    """Check that ``folder`` looks like a Hugging Face model with a tokenizer.

    Without ``with_model`` the tokenizer is enough: the model is elsewhere.

    Raises:
        InputError: it is missing, or one of its files is.
    """
    if not folder.is_dir():
        raise InputError.at(folder, None, "is no folder; name a Hugging Face model folder")
    for name in (CONFIG_NAME, TOKENIZER_FILE) if with_model else (TOKENIZER_FILE,):
        if not (folder / name).is_file():
            raise InputError.at(
                folder, None, f"has no {name}; name a Hugging Face folder with model and tokenizer"
            )


class Prompter:
    """Writes prompts for one model and reads what it writes."""

    def __init__(self, model: Path, conversation: Conversation, max_code_executions: int) -> None:
        self.conversation = conversation
        self.model = model
        self.max_positions = _read_max_positions(model)
        """Tokens that fit into the model; where the folder does not say, no bound."""
        self._max_code_executions = max_code_executions
        self._tokenizer = ExactTokenizer(model, conversation.stop)
        self._decoder = Tokenizer.from_file(str(model / TOKENIZER_FILE))
        self.stop_id = self._tokenizer.stop_id

    @cached_property
    def vocabulary(self) -> int:
        """One more than the highest token id of the tokenizer."""
        return int(max(self._decoder.get_vocab(with_added_tokens=True).values())) + 1

    def budget(self, problem: Problem) -> int:
        """Return how many code calls a solution may make."""
        if problem.mode != "tir":
            return 0
        own = problem.total_code_executions
        return self._max_code_executions if own is None else own

    def encode_prompt(self, problem: Problem, path: Path) -> list[int]:
        """Return the tokens of the whole prompt; ``path`` is the benchmark's, for messages.

        Raises:
            InputError: the mode has no prompt or the row lacks a column that the prompt names.
        """
        try:
            return self._tokenizer.encode_prompt(
                self.conversation, problem.mode, self._record(problem)
            )
        except InputError as error:
            raise InputError.at(path, problem.line, str(error)) from None

    def encode(self, text: str, after: str = "") -> list[int]:
        """Return the tokens of one piece of a solution; control tokens in it stay text.

        ``after``: the text in front of it, as training has it: no space is put between them.
        """
        return self._tokenizer.encode_text(text, after=after)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ``tokens``, control tokens included."""
        return str(self._decoder.decode(tokens, skip_special_tokens=False))

    def check_chat_template(self, problem: Problem) -> None:
        """Compare text and tokens of one prompt with the tokenizer's own chat template.

        A model that carries its conversation was made to agree. Another model's template may
        differ from the ``conversation`` it is evaluated with: that is logged.

        Raises:
            InputError: the model carries its conversation and yet its template differs.
        """
        difference = self._difference(problem)
        if difference is None:
            return
        said = (
            f"{self.model}: its chat template gives another prompt than the conversation"
            f" (mode {problem.mode}): {difference}"
        )
        if (self.model / CONVERSATION_NAME).is_file():
            raise InputError(f"{said}; export the model again")
        log.warning("%s; the conversation's prompt is used", said)

    def _difference(self, problem: Problem) -> str | None:
        # The class that takes tokenizer.json as it is; AutoTokenizer may exchange its splitting
        # rules for those it knows for the kind of model.
        tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(self.model, local_files_only=True)
        if tokenizer.chat_template is None:
            log.warning("%s carries no chat template; the conversation's is used", self.model)
            return None
        record = self._record(problem)
        system, user = self.conversation.prompts[problem.mode].fill(record)
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": user})
        theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ours = self.conversation.render(problem.mode, record)
        if theirs != ours:
            return _first_difference(theirs, ours)
        if self._tokenizer.holds_control(system + user):
            return None  # text that looks like a control token is text here, a token there
        tokens = tokenizer(theirs, add_special_tokens=False)["input_ids"]
        if tokens != self._tokenizer.encode_prompt(self.conversation, problem.mode, record):
            return "the same text in other tokens"
        log.info(
            "generate: the chat template of %s gives the prompt of training, token by token"
            " (mode %s, %d tokens compared)",
            *(self.model, problem.mode, len(tokens)),
        )
        return None

    def _record(self, problem: Problem) -> dict[str, Any]:
        return {**problem.record, "total_code_executions": self.budget(problem)}


def _read_max_positions(model: Path) -> int:
    if not (model / CONFIG_NAME).is_file():
        return sys.maxsize
    return int(read_config(model).get("max_position_embeddings") or sys.maxsize)


def _first_difference(theirs: str, ours: str) -> str:
    """Show where two texts part, a few characters of each.

    >>> _first_difference("system: be brief", "system: think")
    "'be brief' instead of 'think'"
    """
    same = 0
    while same < min(len(theirs), len(ours)) and theirs[same] == ours[same]:
        same += 1
    return f"{theirs[same : same + 40]!r} instead of {ours[same : same + 40]!r}"
