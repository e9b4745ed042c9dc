"""Let a model continue many solutions at once: rows enter and leave while the others go on.

A step feeds one token of every row that writes and the unread tokens of rows that enter, and
chooses the next token of each. A row that ends makes room for the next in the same moment. A row
that ends a code call takes its keys and values out, waits for the output, and enters again with
only the output unread; the others do not wait for it. Samples of one problem share the reading of
its prompt.

What shares a step depends on time where code is run. Where ``CachedModel.is_independent`` holds,
which is checked and logged, that changes no bit of any solution: it depends on the model, the
problem, the sample number and the seed alone. Where it does not hold (GPUs choose other kernels
for other sizes), the same is true up to rounding: a tie within rounding may fall the other way.

Shapes: P rows that get a next token, V vocabulary.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from longrun.config.evaluation import GenerateConfig
from longrun.evaluation.generation.cached_model import CachedModel, read_stop_ids
from longrun.evaluation.generation.code_calls import CodeCalls
from longrun.evaluation.generation.key_values import Table, room_for
from longrun.evaluation.generation.sampling import choose_by_chance, choose_greedy
from longrun.evaluation.generation.solutions import Failure, Solution

_READ_TOKENS = 2048
"""Unread tokens taken into one step; a longer text is read without others."""
_SHARED_TOKENS = 4096
"""Of prompts whose keys and values are kept for further samples."""
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Row:
    """A solution in the batch, and what is kept of it while it is in no table."""

    solution: Solution
    kept: Tensor | None = None
    """Keys and values of the tokens in ``known``, [L, 2, K, n, D]."""
    known: list[int] = field(default_factory=list)
    logits: Tensor | None = None
    """[V] of the next token, where an equal prompt has been read already."""

    def unread(self) -> list[int]:
        """Return the tokens to read; forget what is kept of tokens that have been replaced."""
        text = self.solution.text
        same = 0
        most = min(len(self.known), len(text) - 1)
        if text[:most] == self.known[:most]:
            same = most
        while same < most and text[same] == self.known[same]:
            same += 1
        if self.kept is not None:
            self.kept, self.known = self.kept[..., :same, :], text[:same]
        return text[same:]


@dataclass(slots=True)
class _Shelf:
    """A table and the rows in it, place by place."""

    table: Table
    rows: list[_Row] = field(default_factory=list)

    def take_out(self, place: int, *, keep: bool) -> _Row:
        """Free a room; with ``keep`` the row takes its keys and values along."""
        row = self.rows[place]
        if keep:
            row.kept = self.table.copy(place)
            row.known = row.solution.text[: self.table.lengths[place]]
        self.table.remove(place)
        self.rows[place] = self.rows[-1]
        self.rows.pop()
        return row


class ContinuousDecoder:
    """A model in memory, ready to write."""

    failures: Sequence[Failure] = ()
    """A model in memory gives every solution."""

    def __init__(self, folder: Path, config: GenerateConfig, stop_id: int) -> None:
        """Load the model at ``folder`` and check whether its rows are independent.

        Raises:
            InputError: the folder holds no model of a family that Longrun knows.
        """
        self._model = CachedModel(folder)
        self._config = config
        self._shelves: dict[int, _Shelf] = {}
        self._prompts: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        """Prompts that were read -> keys and values, and logits of the next token."""
        self.stop_ids = frozenset({stop_id}) | read_stop_ids(folder)
        """The conversation's stop token and what the model itself calls an end."""
        if self._model.is_independent():
            log.info("generate: a row's bits do not depend on the batch (checked on this model)")
        else:
            log.warning(
                "generate: on this device rounding depends on the batch: after a kill or with"
                " another batch_size, a choice between equally likely tokens may fall otherwise"
            )

    @torch.inference_mode()
    def write(
        self, waiting: Iterator[Solution], calls: CodeCalls | None = None
    ) -> Iterator[Solution]:
        """Yield every solution when it has finished, in the order in which they finish.

        ``waiting`` is asked for the next when there is room. ``calls`` must be given when there
        are solutions in mode ``tir``.
        """
        self._shelves.clear()
        self._prompts.clear()
        paused: dict[int, _Row] = {}
        entering: list[_Row] = []
        while True:
            room = self._config.batch_size - self._num_writing() - len(entering) - len(paused)
            entering += [_Row(solution) for solution in islice(waiting, max(room, 0))]
            idle = not entering and not self._num_writing()
            if idle and not paused:
                return
            left: list[_Row] = []
            if calls is not None and paused:
                left += [paused.pop(id(one)) for one in calls.collect(wait=idle)]
                entering += [row for row in left if row.solution.finish is None]
            left = [row for row in left if row.solution.finish is not None]
            if entering or self._num_writing():
                left += self._step(entering, calls)
            for row in left:
                if row.solution.finish is None and calls is not None:
                    calls.begin(row.solution)
                    paused[id(row.solution)] = row
                else:
                    yield row.solution

    def _num_writing(self) -> int:
        return sum(len(shelf.rows) for shelf in self._shelves.values())

    def _step(self, entering: list[_Row], calls: CodeCalls | None) -> list[_Row]:
        """Write one token of every row; return the rows that left, finished or with a call.

        Rows that enter are removed from ``entering``.
        """
        readers, ready = self._choose_readers(entering)
        shelves = [shelf for shelf in self._shelves.values() if shelf.rows]
        texts = [row.unread() for row in readers]
        logits_PV, kept = self._model.step(
            [(one.table, [row.solution.tokens[-1] for row in one.rows]) for one in shelves],
            [(row.kept, unread) for row, unread in zip(readers, texts, strict=True)],
        )
        for row, tensor in zip(readers, kept, strict=True):
            row.kept = tensor
        self._share(readers, logits_PV[len(logits_PV) - len(readers) :])
        rows = [*(row for shelf in shelves for row in shelf.rows), *readers, *ready]
        waiting = [row.logits for row in ready if row.logits is not None]
        logits_PV = torch.cat([logits_PV, torch.stack(waiting)]) if waiting else logits_PV
        chosen = self._choose(logits_PV, rows)
        going = {
            id(row): self._goes_on(row.solution, token, calls)
            for row, token in zip(rows, chosen, strict=True)
        }
        return self._place(shelves, [*readers, *ready], going)

    def _choose_readers(self, entering: list[_Row]) -> tuple[list[_Row], list[_Row]]:
        """Take rows to be read in this step, and rows whose prompt has been read already."""
        readers: list[_Row] = []
        ready: list[_Row] = []
        num_tokens, prompts, left = 0, set[tuple[int, ...]](), list[_Row]()
        for row in entering:
            fresh = tuple(row.solution.prompt) if row.kept is None else None
            if fresh in self._prompts:
                row.kept, row.logits = self._prompts[fresh]
                ready.append(row)
                continue
            count = len(row.unread())
            if (readers and num_tokens + count > _READ_TOKENS) or fresh in prompts:
                left.append(row)
                continue
            num_tokens += count
            readers.append(row)
            if fresh is not None and self._config.samples > 1:
                prompts.add(fresh)
        entering[:] = left
        return readers, ready

    def _share(self, readers: Sequence[_Row], logits_PV: Tensor) -> None:
        """Keep the prompts that were read for further samples, the oldest ones not for ever."""
        if self._config.samples == 1:
            return
        for row, logits_V in zip(readers, logits_PV, strict=True):
            if not row.solution.tokens and row.kept is not None:
                self._prompts[tuple(row.solution.prompt)] = row.kept, logits_V
        while len(self._prompts) > 1 and sum(map(len, self._prompts)) > _SHARED_TOKENS:
            del self._prompts[next(iter(self._prompts))]

    def _choose(self, logits_PV: Tensor, rows: Sequence[_Row]) -> list[int]:
        if self._config.temperature == 0.0:
            return choose_greedy(logits_PV).tolist()
        uniforms_P = torch.tensor([row.solution.rng.random() for row in rows], dtype=torch.float64)
        return choose_by_chance(
            logits_PV,
            uniforms_P.to(logits_PV.device),
            temperature=self._config.temperature,
            top_p=self._config.top_p,
        ).tolist()

    def _goes_on(self, solution: Solution, token: int, calls: CodeCalls | None) -> bool:
        solution.tokens.append(token)
        if token in self.stop_ids:
            solution.finish = "stop"
        elif len(solution.tokens) >= solution.most_tokens:
            solution.finish = "length"
        if solution.finish is not None:
            return False
        return calls is None or not calls.ends_segment(solution)

    def _place(
        self, shelves: Sequence[_Shelf], entered: Sequence[_Row], going: dict[int, bool]
    ) -> list[_Row]:
        """Take out the rows that leave and give the others a room for their next token."""
        left: list[_Row] = []
        moving: list[_Row] = []
        for shelf in shelves:
            for place in reversed(range(len(shelf.rows))):
                row = shelf.rows[place]
                if not going[id(row)]:
                    left.append(shelf.take_out(place, keep=row.solution.finish is None))
                elif shelf.table.lengths[place] == shelf.table.room:
                    moving.append(shelf.take_out(place, keep=True))
        for row in entered:
            row.logits = None
            row.known = row.solution.text[:-1]
            (moving if going[id(row)] else left).append(row)
        for row in moving:
            self._give_room(row)
        return left

    def _give_room(self, row: _Row) -> None:
        if row.kept is None:
            raise AssertionError(f"{row.solution.problem.id}: enters a table unread")
        room = room_for(row.kept.shape[-2] + 1)
        if room not in self._shelves:
            self._shelves[room] = _Shelf(self._model.new_table(room))
        self._shelves[room].table.add(row.kept)
        self._shelves[room].rows.append(row)
        row.kept, row.known = None, []
