"""Sequences decoded side by side. Sequences join between two steps and leave the batch when they end."""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.engine.forward import ForwardPass
from model.engine.row import Row, StreamEvent, Vocabulary

PREFILL_TOKENS = 4096
"""Padded prompt tokens run through the model at once, at most (a single longer prompt is run whole)."""


class RunningBatch:
    """`rows[i]` is the sequence in row i of the cache; `last_ids[i]` its newest token, not yet in the cache."""

    def __init__(self, forward: ForwardPass, vocabulary: Vocabulary) -> None:
        self.forward, self.vocabulary = forward, vocabulary
        self.cache = forward.new_cache()
        self.rows: list[Row] = []
        self.last_ids: list[int] = []

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, prompts: Sequence[list[int]], samples: Sequence[list[Row]]) -> list[tuple[Row, StreamEvent]]:
        """Prefill prompts; `samples[i]` are the rows that continue prompts[i]. Returns every row's first token."""
        events = []
        for first, last in _groups(prompts):
            events += self._add_group(list(prompts[first:last]), samples[first:last])
        self._drop_finished()
        return events

    def step(self) -> list[tuple[Row, StreamEvent]]:
        """One more token for every row; finished rows leave."""
        if not self.rows:
            return []
        logits_BV = self.forward.decode(self.last_ids, self.cache)
        chosen = self._choose(logits_BV, self.rows)
        self.last_ids = [event.token_id for _, event in chosen]
        self._drop_finished()
        return chosen

    def cancel(self, row: Row) -> None:
        """Take out a row whose result nobody waits for; rows that have left already are ignored."""
        for number, present in enumerate(self.rows):
            if present is row:
                self._drop(number)
                return

    def _add_group(self, prompts: list[list[int]], samples: Sequence[list[Row]]) -> list[tuple[Row, StreamEvent]]:
        lengths = [len(prompt) for prompt in prompts]
        positions = max(len(prompt) + row.limit for prompt, rows in zip(prompts, samples, strict=True) for row in rows)
        first_row = self.cache.add_rows(lengths, positions)
        logits_BV = self.forward.prefill(prompts, self.cache, first_row)
        rows = [rows[0] for rows in samples]
        sources = list(range(len(prompts)))
        for number, copies in enumerate(samples):
            if len(copies) > 1:
                copied = self.cache.add_rows([lengths[number]] * (len(copies) - 1), positions)
                for offset, row in enumerate(copies[1:]):
                    self.cache.copy_row(first_row + number, copied + offset)
                    rows.append(row)
                    sources.append(number)
        chosen = self._choose(logits_BV[sources], rows)
        self.rows += rows
        self.last_ids += [event.token_id for _, event in chosen]
        return chosen

    def _choose(self, logits_BV: Tensor, rows: list[Row]) -> list[tuple[Row, StreamEvent]]:
        logits_BV = logits_BV[:, : self.vocabulary.size]
        totals_B = torch.logsumexp(logits_BV, dim=-1).tolist()
        logits = logits_BV.cpu().numpy()
        chosen = []
        for number, row in enumerate(rows):
            forced = bool(row.forced)
            token_id = row.forced.popleft() if forced else row.sampler.choose(logits[number])
            chosen.append((row, row.accept(token_id, float(logits[number, token_id]) - totals_B[number], forced)))
        return chosen

    def _drop_finished(self) -> None:
        for number in reversed(range(len(self.rows))):
            if self.rows[number].finish_reason is not None:
                self._drop(number)

    def _drop(self, number: int) -> None:
        self.cache.drop_row(number)
        self.rows[number], self.last_ids[number] = self.rows[-1], self.last_ids[-1]
        self.rows.pop()
        self.last_ids.pop()


def _groups(prompts: Sequence[list[int]]) -> list[tuple[int, int]]:
    """Consecutive prompts that are prefilled together: their padded size stays within PREFILL_TOKENS."""
    groups, first, longest = [], 0, 0
    for number, prompt in enumerate(prompts):
        if number > first and max(longest, len(prompt)) * (number - first + 1) > PREFILL_TOKENS:
            groups.append((first, number))
            first, longest = number, 0
        longest = max(longest, len(prompt))
    return [*groups, (first, len(prompts))] if prompts else []
