"""The batches a training step takes from a row folder (model/row_files.py): order, ranks, position.

Rows are gathered from the mapped files in one indexed read per file and widened once; inputs and targets are two views
of the result. Weights are computed only for rows that have padding or a mask.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.row_files import StoredRows, read_manifest, verify_rows, write_rows
from model.row_mixture import draw_rows, visits_per_epoch

__all__ = ["Batch", "RowBatches", "RowFolder", "iterate_rows", "read_manifest", "verify_rows", "write_rows"]


@dataclass
class Batch:
    """ids_BT and targets_BT (int64; target i follows id i) and weights_BT (float32; 0 = not supervised)."""

    ids_BT: Tensor  # noqa: N815 - shape suffix
    targets_BT: Tensor  # noqa: N815
    weights_BT: Tensor  # noqa: N815
    bos_id: int | None = None
    """The id every document begins with, where the rows have one."""
    row_numbers: list[int] = field(default_factory=list)
    """Which rows of the split these are, where they come from one: to name the rows of a step that went wrong."""

    @property
    def document_ids_BT(self) -> Tensor:  # noqa: N802
        """Number (from 1) of the piece of a document that each input position belongs to: what a mask that keeps
        documents apart compares. Padding counts to the piece before it. ValueError for batches without a BOS."""
        if self.bos_id is None:
            raise ValueError("this batch names no bos_id; allowed: batches read from a row folder")
        return (self.ids_BT == self.bos_id).cumsum(-1)

    def rows(self, start: int, end: int) -> "Batch":
        """The micro-batch of rows [start, end)."""
        part = slice(start, end)
        return replace(
            self,
            ids_BT=self.ids_BT[part],
            targets_BT=self.targets_BT[part],
            weights_BT=self.weights_BT[part],
            row_numbers=self.row_numbers[part],
        )

    def pinned(self) -> "Batch":
        """The same batch in page-locked memory, from which copies to CUDA do not wait. Needs CUDA."""
        weights = self.weights_BT if _is_constant(self.weights_BT) else self.weights_BT.contiguous().pin_memory()
        ids, targets = (part.contiguous().pin_memory() for part in (self.ids_BT, self.targets_BT))
        return replace(self, ids_BT=ids, targets_BT=targets, weights_BT=weights)

    def to(self, device: torch.device) -> "Batch":
        """Copy to the device; towards CUDA from pinned memory and without waiting."""
        if device.type == "cpu":
            return self
        source = self if device.type != "cuda" or self.ids_BT.is_pinned() else self.pinned()
        if _is_constant(source.weights_BT):
            weights = torch.full((), float(source.weights_BT[0, 0]), device=device).expand(source.weights_BT.shape)
        else:
            weights = source.weights_BT.to(device, non_blocking=True)
        ids, targets = (part.to(device, non_blocking=True) for part in (source.ids_BT, source.targets_BT))
        return replace(self, ids_BT=ids, targets_BT=targets, weights_BT=weights)


def _is_constant(weights_BT: Tensor) -> bool:
    """One stored number seen from everywhere: the weights of rows without padding."""
    return weights_BT.numel() > 1 and weights_BT.stride() == (0, 0)


class RowFolder(StoredRows):
    """A split of a row folder, read as batches."""

    def batch(self, numbers: NDArray[np.int64]) -> Batch:
        """The rows with these numbers, in this order. ValueError if a row holds an id outside the vocabulary."""
        narrow = self.ids(numbers)
        if narrow.size and narrow.max() >= self.vocab_size:
            raise ValueError(
                f"{self.folder}: a row of split {self.split!r} holds id {narrow.max()} >= {self.vocab_size}; "
                f"next: compare the files with their hashes (verify_rows), build the rows again"
            )
        mask = self.masks(numbers)
        if mask is None:
            supervised = narrow[:, 1:] != self.pad_id
            if supervised.all():
                weights = torch.ones(()).expand(supervised.shape)
            else:
                weights = torch.from_numpy(supervised.astype(np.float32))
        else:
            weights = torch.from_numpy(mask[:, 1:].astype(np.float32))
        wide = torch.from_numpy(narrow.astype(np.int64))
        return Batch(wide[:, :-1], wide[:, 1:], weights, self.bos_id, numbers.tolist())


class RowBatches:
    """An endless stream of batches: every epoch a new seeded order, the same on any number of ranks.

    `rows_per_step` is this rank's share; a step takes world_size times as many consecutive rows of the common order.
    With `domain_shares` (domain -> weight) an epoch still takes as many rows as the split has, but each row as often as
    makes the domains' shares of the tokens those asked for, on average over epochs (model/row_mixture.py).
    """

    prefetchable = True
    """next() does not depend on the weights, so it may be called while the device still works on the last step."""

    def __init__(
        self,
        folder: Path,
        split: str,
        rows_per_step: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        *,
        domain_shares: Mapping[str, float] | None = None,
        tokenizer_sha256: str | None = None,
    ) -> None:
        if rows_per_step < 1 or not 0 <= rank < world_size:
            raise ValueError(
                f"rows_per_step={rows_per_step}, rank={rank} of {world_size}; allowed: at least 1 row, rank in range"
            )
        self.source = RowFolder(folder, split, tokenizer_sha256)
        if self.source.rows == 0:
            raise ValueError(f"{folder}: split {split!r} has no rows; next: give it more text")
        self.rows_per_step, self.seed, self.rank, self.world_size = rows_per_step, seed, rank, world_size
        self.domain_shares = dict(sorted(domain_shares.items())) if domain_shares else None
        self._visits = visits_per_epoch(Path(folder), split, self.domain_shares) if self.domain_shares else None
        self.rows_taken = 0
        """Rows all ranks together have taken since the start."""
        self._order = lru_cache(maxsize=2)(self._order_of_epoch)

    @property
    def tokens_per_row(self) -> int:
        return self.source.tokens_per_row

    @property
    def step_shape(self) -> tuple[int, int]:
        """(rows, tokens of a row) that this rank takes per step."""
        return self.rows_per_step, self.tokens_per_row

    @property
    def most_visits_per_epoch(self) -> float:
        """How often an epoch takes the row it takes most, on average: how far `domain_shares` repeat text."""
        return 1.0 if self._visits is None else float(self._visits.max())

    @property
    def epochs(self) -> float:
        """Passes over the split so far."""
        return self.rows_taken / self.source.rows

    def next(self) -> Batch:
        """This rank's rows of the next step."""
        first = self.rows_taken + self.rank * self.rows_per_step
        end, rows = first + self.rows_per_step, self.source.rows
        numbers = np.concatenate(
            [
                self._order(epoch)[max(first - epoch * rows, 0) : end - epoch * rows]
                for epoch in range(first // rows, (end - 1) // rows + 1)
            ]
        )
        batch = self.source.batch(numbers)
        self.rows_taken += self.rows_per_step * self.world_size
        return batch

    def _order_of_epoch(self, epoch: int) -> NDArray[np.int64]:
        draw = np.random.Generator(np.random.Philox([self.seed, epoch]))
        return draw.permutation(self.source.rows) if self._visits is None else draw_rows(self._visits, draw)

    def state_dict(self) -> dict[str, Any]:
        """Position in GLOBAL rows: valid on any number of ranks."""
        return {
            "rows_taken": self.rows_taken,
            "seed": self.seed,
            "rows": self.source.rows,
            "rows_sha256": self.source.sha256,
            "domain_shares": self.domain_shares,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken; ValueError if it belongs to other rows or another order.

        States without rows_sha256 and domain_shares are older and were taken without them.
        """
        own = self.state_dict()
        taken = state.get("rows_taken")
        if not isinstance(taken, int) or taken < 0 or not {"seed", "rows"} <= state.keys():
            raise ValueError(
                f"saved loader position {dict(state)} is none of this loader; needed: rows_taken, seed, rows; "
                f"next: remove the saved state to train from the start"
            )
        found = {"rows_sha256": own["rows_sha256"], "domain_shares": None, **state}
        for name in ("seed", "rows", "domain_shares", "rows_sha256"):
            if found[name] != own[name]:
                raise ValueError(
                    f"saved loader position has {name}={found[name]}, these rows have {name}={own[name]}; "
                    f"next: remove the saved state to train from the start"
                )
        self.rows_taken = taken


def iterate_rows(folder: Path, split: str, rows_per_batch: int, max_rows: int | None = None) -> Iterator[Batch]:
    """The rows of a split in order, once; with `max_rows`, that many spread evenly over the whole split.

    Evenly, because packing sorts long documents first: a prefix would not stand for the split.
    """
    source = RowFolder(folder, split)
    count = source.rows if max_rows is None else min(max_rows, source.rows)
    numbers = np.arange(count) * source.rows // max(count, 1)
    for start in range(0, count, rows_per_batch):
        yield source.batch(numbers[start : start + rows_per_batch])
