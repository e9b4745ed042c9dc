"""A model that reads and writes with kept keys and values: one step over any mixture of rows.

It is the decoder of ``longrun.nn`` with another attention core. On the CPU in float32 the logits of
a row do not depend, bit for bit, on what else is in the step: matrix products are padded to a
multiple of eight rows, from where on each row is computed alike, and attention sees one row at a
time in a room whose size follows from its length. ``is_independent`` checks that on the model.

Shapes: T tokens of the step, P rows that get a next token, V vocabulary; others as ``key_values``.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from longrun.checkpoint.huggingface import load_weights
from longrun.checkpoint.model_folder import CONFIG_NAME, GENERATION_NAME, read_arch, read_config
from longrun.errors import InputError
from longrun.evaluation.generation.key_values import CachedCore, Reading, Table, Writing, room_for
from longrun.formats.json_text import JsonError, decode_json
from longrun.nn.architecture import read_dtype
from longrun.nn.decoder import Decoder
from longrun.nn.fields import Fields
from longrun.nn.rope import rotation

ROW_MULTIPLE = 8
"""Rows of a matrix product are padded to a multiple of this, from where on results are alike."""
Text = tuple[Tensor | None, Sequence[int]]
"""Keys and values [L, 2, K, n, D] of the first n tokens, or None, and the tokens after them."""


class CachedModel:
    """A model in memory."""

    def __init__(self, folder: Path) -> None:
        """Load the model at ``folder``: on the GPU in its own type, on the CPU in float32.

        Raises:
            InputError: the folder holds no model of a family that Longrun knows.
        """
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = _own_type(folder) if self.device.type == "cuda" else torch.float32
        self.arch = read_arch(folder)
        decoder = Decoder(self.arch, backend="sdpa", compute_dtype=self.dtype)
        decoder = decoder.to(self.device, self.dtype).eval()
        load_weights(folder, decoder)
        for index, layer in enumerate(decoder.model.layers):
            layer.get_submodule("self_attn").core = CachedCore(index)
        self._decoder = decoder

    def new_table(self, num_tokens: int) -> Table:
        """Return an empty table whose rooms hold ``num_tokens``."""
        return Table(room_for(num_tokens), self.arch, self.device, self.dtype)

    @torch.inference_mode()
    def step(
        self, writing: Sequence[tuple[Table, Sequence[int]]], reading: Sequence[Text]
    ) -> tuple[Tensor, list[Tensor]]:
        """Feed the next token of every row of the tables, and whole texts, in one pass.

        Returns the logits [P, V] behind each row of the tables, then behind each text, and the
        keys and values of each text, [L, 2, K, n, D]. The tables keep those of the new tokens.
        """
        parts: list[Writing | Reading] = []
        tokens: list[int] = []
        positions: list[int] = []
        like = torch.empty(0, device=self.device, dtype=self.dtype)
        for table, chosen in writing:
            parts.append(Writing.of(table, len(tokens), like))
            tokens += chosen
            positions += table.lengths
        last = list(range(len(tokens)))
        read = []
        for past, unread in reading:
            read.append(Reading.of(len(tokens), len(unread), past, self.arch, like))
            before = 0 if past is None else past.shape[-2]
            tokens += unread
            positions += range(before, before + len(unread))
            last.append(len(tokens) - 1)
        logits_PV = self._forward(tokens, positions, [*parts, *read], last)
        for table, _ in writing:
            table.lengths = [length + 1 for length in table.lengths]
        return logits_PV, [part.kept for part in read]

    def is_independent(self) -> bool:
        """Say whether a row gets the same bits alone and among others, reading and writing."""
        most = min(self.arch.vocab_size, self.arch.max_positions)
        texts = [[(7 * n + 3 * k) % most for k in range(3 + 5 * n)] for n in range(9)]
        seen = []
        for some in (texts[:1], texts):
            read_PV, kept = self.step([], [(None, text) for text in some])
            table = self.new_table(64)
            for one in kept:
                table.add(one)
            written_PV, _ = self.step([(table, [1] * len(some))], [(kept[0], texts[0])])
            seen.append(torch.stack([read_PV[0], written_PV[0], written_PV[-1]]))
        return torch.equal(*seen)

    def _forward(
        self,
        tokens: list[int],
        positions: list[int],
        parts: Sequence[Writing | Reading],
        last: list[int],
    ) -> Tensor:
        count = len(last)
        if not count:
            return torch.empty(0, self.arch.vocab_size, device=self.device, dtype=self.dtype)
        tokens_T, positions_T, last_P = (
            torch.tensor(values + [0] * (-len(values) % ROW_MULTIPLE), device=self.device)
            for values in (tokens, positions, last)
        )
        decoder = self._decoder
        rope = rotation(self.arch, positions_T, self.dtype)
        x_TH = decoder.model.embed_tokens(tokens_T)
        for layer in decoder.model.layers:
            x_TH = layer(x_TH, rope, parts)
        logits_PV: Tensor = decoder.lm_head(decoder.model.norm(x_TH[last_P]))
        return logits_PV[:count]


class _Ends(msgspec.Struct):
    eos_token_id: int | list[int] | None = None


def read_stop_ids(folder: Path) -> frozenset[int]:
    """Return the tokens that a model folder itself calls an end."""
    ends: list[int] = []
    for name in (CONFIG_NAME, GENERATION_NAME):
        try:
            own = decode_json((folder / name).read_bytes(), _Ends).eos_token_id
        except FileNotFoundError:
            continue
        except (OSError, JsonError) as error:
            raise InputError.at(folder / name, None, f"{error}; save the model again") from None
        ends += own if isinstance(own, list) else [] if own is None else [own]
    return frozenset(ends)


def _own_type(folder: Path) -> torch.dtype:
    name = read_dtype(Fields(read_config(folder), str(folder / CONFIG_NAME)))
    return getattr(torch, name) if name in ("float16", "bfloat16") else torch.float32
