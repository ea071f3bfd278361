"""Small training runs for tests: rows, options, a reporter that keeps everything, batches that go wrong."""

import math

import numpy as np
import torch

from model.batches import Batch, RowBatches, write_rows
from model.gpt import GPT
from model.optim import OptimizerOptions
from model.train_loop import LoopOptions, Schedule, train
from model.train_options import TIMING_COLUMNS
from tests.model.test_gpt import randomised, small_config

INFO = {"vocab_size": 192, "bos_id": 183, "pad_id": 191, "tokenizer_sha256": "t"}


class Recorder:
    """A reporter that keeps everything."""

    def __init__(self):
        self.steps, self.losses, self.rows, self.notes, self.values = [], [], [], [], {}
        self.lives = []

    def progress(self, step, steps, tokens, loss, lr):
        self.steps.append(step)
        self.losses.append(loss)

    def live(self, values):
        self.lives.append(values)

    def curve(self, rows):
        """Later rows of a step replace earlier ones, as every receiver must do."""
        by_step = {row["step"]: row for row in self.rows} | {row["step"]: dict(row) for row in rows}
        self.rows = [by_step[step] for step in sorted(by_step)]

    def note(self, text):
        self.notes.append(text)

    def figures(self, **values):
        self.values |= values


def write_text_rows(folder, rows=24, tokens=16):
    """Counting sequences: something a small model learns at once, so that the loss must fall."""
    starts = np.random.default_rng(0).integers(0, 183, rows)
    ids = (starts[:, None] + np.arange(tokens + 1)) % 183
    ids[:, 0] = 183
    write_rows(folder, "train", ids, None, INFO)
    write_rows(folder, "val", ids[:4], None, INFO)
    return folder


def options(steps=8, **changes):
    """Options of the loop; those of the optimizer may be given in the same call."""
    rates = {"matrix_lr": 0.02, "embedding_lr": 0.05, "head_lr": 0.01, "weight_decay": 0.05}
    rates |= {name: changes.pop(name) for name in [*changes] if name in OptimizerOptions.__dataclass_fields__}
    loop = {"schedule": Schedule(steps, 0.25, 0.5), "optimizer": OptimizerOptions(**rates), "micro_batch_rows": 3}
    return LoopOptions(**(loop | changes))


def run(folder, rows, loop=None, evaluate=None, stop=lambda: False, model=None):
    """One session in `folder`; -> (model, result, recorder)."""
    recorder = Recorder()
    if model is None:
        model = GPT(small_config(), compute_dtype="bfloat16")
        model.init_weights(0)
    batches = RowBatches(rows, "train", 4, seed=3)
    result = train(
        model, batches, loop or options(), resume_folder=folder, report=recorder, stop_requested=stop, evaluate=evaluate
    )
    return model, result, recorder


def untimed(row):
    """A curve row without what depends on the clock and the process."""
    return {name: value for name, value in row.items() if name not in TIMING_COLUMNS}


def stop_after(steps):
    """A stop request that arrives while step `steps` runs."""
    asked = iter([False] * steps)
    return lambda: next(asked, True)


def uneven_batch(seed=0):
    """Six rows with very different numbers of supervised tokens, one with none, and signed weights."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 192, (6, 17), generator=generator)
    weights = torch.randn(6, 16, generator=generator)
    for row, kept in enumerate((16, 1, 0, 5, 9, 2)):
        weights[row, kept:] = 0
    return Batch(ids[:, :-1], ids[:, 1:], weights)


class Constant:
    """A source of one batch with chosen weights."""

    def __init__(self, *batches):
        self.batches, self.taken = batches, 0

    def next(self):
        self.taken += 1
        return self.batches[min(self.taken, len(self.batches)) - 1]

    def state_dict(self):
        return {"taken": self.taken}

    def load_state_dict(self, state):
        self.taken = state["taken"]


def broken_batch():
    """A batch whose loss is not a number."""
    bad = uneven_batch()
    bad.weights_BT[0, 0] = math.nan
    return bad


def train_on(source, folder, loop, model=None):
    """Train a small model on a source of batches; -> (model, result, recorder)."""
    recorder, model = Recorder(), model or randomised(small_config())
    return model, train(model, source, loop, resume_folder=folder, report=recorder), recorder
