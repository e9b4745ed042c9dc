"""Let a Hugging Face model continue many solutions at once.

Rows are padded on the left, share one key-value cache, and leave the batch the moment they end, so
a step costs what the rows that still run cost. One call is one *round*: every row runs to its stop
token, its token bound or the end of a code call. After the calls are answered the rows that go on
are read anew in the next round; reading is cheap beside writing. Nothing here depends on time, so
the same rows in the same batch give the same tokens.

Shapes: B rows, T tokens so far in the longest row, Q tokens read in this step, V vocabulary.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils import logging as transformers_logging

from longrun.config.stages import GenerateConfig
from longrun.errors import InputError
from longrun.evaluate.sampling import choose_by_chance, choose_greedy
from longrun.evaluate.solutions import Solution

log = logging.getLogger(__name__)


class BatchDecoder:
    """A model in memory, ready to write."""

    def __init__(self, folder: Path, config: GenerateConfig, stop_id: int) -> None:
        """Load the model at ``folder``: on the GPU in its own type, on the CPU in float32.

        Raises:
            InputError: the folder holds no model that transformers can load.
        """
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = _load(folder, self._device)
        self._temperature = config.temperature
        self._top_p = config.top_p
        own = self._model.generation_config.eos_token_id
        ends = own if isinstance(own, list) else [] if own is None else [own]
        self.stop_ids = frozenset({stop_id, *ends})
        """The conversation's stop token and what the model itself calls an end."""
        self.max_positions: int = self._model.config.max_position_embeddings

    @torch.inference_mode()
    def write(self, solutions: Sequence[Solution], stops: Callable[[Solution], bool]) -> None:
        """Continue each solution in place until it finishes or ``stops`` says so.

        ``stops`` is asked after every token that does not finish the solution.
        """
        batch = _Batch(solutions, DynamicCache(config=self._model.config), self._device)
        while batch.rows:
            logits_BV = self._model(
                input_ids=batch.tokens_BQ,
                attention_mask=batch.attention,
                position_ids=batch.positions_BQ,
                past_key_values=batch.cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            chosen_B = self._choose(logits_BV, batch.rows)
            going = [
                index
                for index, token in enumerate(chosen_B.tolist())
                if self._goes_on(batch.rows[index], token, stops)
            ]
            batch.advance(chosen_B, going)

    def _choose(self, logits_BV: Tensor, rows: Sequence[Solution]) -> Tensor:
        if self._temperature == 0.0:
            return choose_greedy(logits_BV)
        uniforms_B = torch.tensor([row.rng.random() for row in rows], dtype=torch.float64)
        return choose_by_chance(
            logits_BV,
            uniforms_B.to(self._device),
            temperature=self._temperature,
            top_p=self._top_p,
        )

    def _goes_on(self, row: Solution, token: int, stops: Callable[[Solution], bool]) -> bool:
        row.tokens.append(token)
        if token in self.stop_ids:
            row.finish = "stop"
        elif len(row.tokens) >= row.most_tokens:
            row.finish = "length"
        return row.finish is None and not stops(row)


class _Batch:
    """The rows that still run and what the model needs for their next step."""

    def __init__(
        self, solutions: Sequence[Solution], cache: DynamicCache, device: torch.device
    ) -> None:
        self.rows = list(solutions)
        self.cache = cache
        tokens_BT, mask_BT = _pad_left([row.prompt + row.tokens for row in self.rows])
        self.tokens_BQ = tokens_BT.to(device)
        """What to read next: the whole text at first (Q = T), then one token (Q = 1)."""
        self._mask_BT = mask_BT.to(device)
        self.positions_BQ = (self._mask_BT.cumsum(-1) - 1).clamp_(min=0)
        self.attention = self._mask_BT

    def advance(self, chosen_B: Tensor, going: Sequence[int]) -> None:
        """Keep the rows whose indices are ``going`` and append their tokens."""
        self.positions_BQ = self.positions_BQ[:, -1:] + 1
        if len(going) < len(self.rows):
            self.rows = [self.rows[index] for index in going]
            if not going:
                return
            kept_B = torch.tensor(going, device=chosen_B.device)
            self.cache.batch_select_indices(kept_B)
            chosen_B, self._mask_BT = chosen_B[kept_B], self._mask_BT[kept_B]
            self.positions_BQ = self.positions_BQ[kept_B]
        self.tokens_BQ = chosen_B[:, None]
        seen_B1 = torch.ones_like(self.tokens_BQ, dtype=torch.bool)
        self._mask_BT = torch.cat([self._mask_BT, seen_B1], -1)
        # One query sees every real token: the finished mask saves transformers building it.
        self.attention = self._mask_BT[:, None, None, :]


def _pad_left(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return tokens int64 [B, T] and whether each is real, bool [B, T]; the last column is."""
    longest = max(map(len, rows))
    tokens_BT = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask_BT = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        tokens_BT[index, longest - len(row) :] = torch.tensor(row)
        mask_BT[index, longest - len(row) :] = True
    return tokens_BT, mask_BT


def _load(folder: Path, device: torch.device) -> Any:
    transformers_logging.disable_progress_bar()
    dtype = "auto" if device.type == "cuda" else torch.float32
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError.at(folder, None, f"is not a model that can be loaded ({error})") from None
    return model.to(device).eval()
