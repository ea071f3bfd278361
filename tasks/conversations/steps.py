"""How many optimizer steps a stage takes over its conversation rows."""

import json
import math
from pathlib import Path

from model.batches import read_manifest
from tasks._context import StageContext
from tasks._errors import StageError


def batch_tokens_of(ctx: StageContext, batch_tokens: int | None) -> int:
    """Tokens per optimizer step: the parameter where set, else the plan's."""
    if batch_tokens is not None:
        return batch_tokens
    path = ctx.input("artifacts/budget/plan.json")
    planned = json.loads(path.read_text(encoding="utf-8")).get("batch_tokens")
    if not planned:
        raise StageError(f"{path} lacks batch_tokens; next: `dvc repro budget`, or set {ctx.stage}.batch_tokens")
    return int(planned)


def steps_for(rows: Path, epochs: float, batch_tokens: int, steps: int | None = None) -> int:
    """`steps` where set, else as many as `epochs` passes over the rows need, rounded up."""
    manifest = read_manifest(rows)
    tokens = manifest["train"]["rows"] * manifest["tokens_per_row"] * epochs
    return steps if steps is not None else max(1, math.ceil(tokens / batch_tokens))
