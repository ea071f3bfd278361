"""Keys and values of the sequences being decoded: rows of unequal length side by side, growing when needed."""

import torch
from torch import Tensor

# L layers, B rows, N key-value heads, S positions, H head dim

_POSITIONS_STEP = 64  # capacity grows in steps: fewer copies, and the kernels meet few distinct shapes


class KVCache:
    """`lengths[row]` positions of every row are filled. Rows 0 .. len(lengths)-1 are in use, without holes."""

    def __init__(
        self, n_layers: int, n_kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.lengths: list[int] = []
        self._store = torch.zeros(n_layers, 2, 0, n_kv_heads, 0, head_dim, dtype=dtype, device=device)

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token of one sequence occupies."""
        n_layers, two, _, n_kv_heads, _, head_dim = self._store.shape
        return n_layers * two * n_kv_heads * head_dim * self._store.element_size()

    @property
    def bytes_allocated(self) -> int:
        return self._store.numel() * self._store.element_size()

    def reserve(self, rows: int, positions: int) -> None:
        """Make room for `rows` rows of `positions` positions, keeping what is stored."""
        have_rows, have_positions = self._store.shape[2], self._store.shape[4]
        positions = -(-positions // _POSITIONS_STEP) * _POSITIONS_STEP
        if rows <= have_rows and positions <= have_positions:
            return
        shape = list(self._store.shape)
        shape[2], shape[4] = max(rows, have_rows), max(positions, have_positions)
        grown = self._store.new_zeros(shape)
        grown[:, :, :have_rows, :, :have_positions] = self._store
        self._store = grown

    def add_rows(self, lengths: list[int], positions: int) -> int:
        """Append rows that will hold at most `positions` positions each; returns the number of the first one."""
        first = len(self.lengths)
        self.reserve(first + len(lengths), positions)
        self.lengths.extend(lengths)
        return first

    def write_prompt(self, layer: int, first_row: int, k_BNTH: Tensor, v_BNTH: Tensor) -> None:
        """Store the keys and values of whole prompts (right-padded to one length) from position 0 on."""
        B, _, T, _ = k_BNTH.shape
        self._store[layer, 0, first_row : first_row + B, :, :T] = k_BNTH
        self._store[layer, 1, first_row : first_row + B, :, :T] = v_BNTH

    def write_token(
        self, layer: int, rows_B: Tensor, positions_B: Tensor, k_BNH: Tensor, v_BNH: Tensor, position: int | None
    ) -> tuple[Tensor, Tensor]:
        """Store one token per row and return views (B, N, S, H) of all keys and values.

        `position` is given when all rows are at the same one: a slice is cheaper than indices.
        """
        keys, values = self._store[layer, 0, : len(self.lengths)], self._store[layer, 1, : len(self.lengths)]
        if position is not None:
            keys[:, :, position], values[:, :, position] = k_BNH, v_BNH
        else:
            keys[rows_B, :, positions_B], values[rows_B, :, positions_B] = k_BNH, v_BNH
        longest = max(self.lengths) + 1
        return keys[:, :, :longest], values[:, :, :longest]

    def copy_row(self, source: int, target: int) -> None:
        """Give row `target` the content of row `source`."""
        length = self.lengths[source]
        self._store[:, :, target, :, :length] = self._store[:, :, source, :, :length]
        self.lengths[target] = length

    def drop_row(self, row: int) -> None:
        """Free a row. The last row takes its number (and its place), so that there are no holes."""
        last = len(self.lengths) - 1
        if row != last:
            self.copy_row(last, row)
        self.lengths.pop()
