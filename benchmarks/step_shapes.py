"""The constants of a step on this CPU, from steps of random shapes: `python -m benchmarks.step_shapes [--shapes 24]`.

Every shape takes real steps (random tokens, forward, backward, optimizer; layers not compiled) in this process. All but
every fourth calibrate the constants of `pipeline_math.step_time`, from priors twice as wide as those of the class; the
others are predicted by them and by the class as it is, so that a fit that only follows its own data shows. Values to
enter in pipeline_math/constants.py are printed, nothing is written.
"""

import argparse
import dataclasses
import math
import random
import statistics
import time

import torch

from model.allocator import keep_freed_memory
from model.batches import Batch
from model.compilation import prepare_compute
from model.gpt import GPT
from model.optim import Optimizer, OptimizerOptions
from model.shape_of_config import config_of_shape
from model.train_step import Updater
from pipeline_math.calibrate import calibrate
from pipeline_math.constants import CONSTANTS, noise_of, prior_of
from pipeline_math.forecast import Calibration, Observation, forecast, prior
from pipeline_math.hardware import find_hardware
from pipeline_math.model_flops_vram import ModelShape
from pipeline_math.step_time import step_terms

QUANTITY = "pretrain.step_seconds"


def random_shape(draw: random.Random) -> tuple[ModelShape, int, int]:
    """(shape, rows of a step, rows at once), 0.1 M to 30 M parameters."""
    heads = draw.choice((1, 2, 3, 4, 6))
    head_dim = draw.choice((32, 64, 128))
    width = heads * head_dim
    tokens = draw.choice((128, 256, 512))
    shape = ModelShape(draw.choice((1, 2, 4, 6, 8)), width, heads, heads, 4 * width, 2 ** draw.randint(10, 14), tokens)
    rows = max(1, draw.choice((2048, 4096, 8192)) // tokens)
    return shape, rows, max(1, rows // draw.choice((1, 1, 2, 4)))


def step_seconds(shape: ModelShape, rows: int, micro_batch_rows: int, steps: int) -> float:
    """Median seconds of a step after three to warm up."""
    model = GPT(config_of_shape(shape))
    model.init_weights(0)
    prepare_compute(model, torch.device("cpu"), rows=micro_batch_rows, steps_left=0, request="off")
    updater = Updater(model, Optimizer(model, OptimizerOptions(0.02, 0.3, 0.008, 0.1)), micro_batch_rows, print)
    ids = torch.randint(0, shape.vocab_size, (rows, shape.tokens_per_row + 1))
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(()).expand(rows, shape.tokens_per_row))
    seconds = []
    for step in range(steps + 3):
        started = time.perf_counter()
        updater.launch(batch, step + 1, math.inf, watch=False).outcome()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[3:])


def widened(known: Calibration, factor: float = 2.0) -> Calibration:
    """The same most likely values, known `factor` times less well."""
    constants = {
        name: dataclasses.replace(constant, value=known.value(name), log_sd=factor * constant.log_sd)
        for name, constant in CONSTANTS["cpu"].items()
    }
    return prior(constants)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=int, default=24)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hardware", default="cpu-2core")
    given = parser.parse_args()
    keep_freed_memory()
    hardware, draw = find_hardware(given.hardware), random.Random(given.seed)
    found: list[tuple[ModelShape, int, Observation]] = []
    for _ in range(given.shapes):
        shape, rows, at_once = random_shape(draw)
        terms = step_terms(hardware, shape, rows * shape.tokens_per_row, at_once)
        found.append((shape, rows, Observation(QUANTITY, terms, step_seconds(shape, rows, at_once, given.steps))))
    held_out = found[3::4]
    fitted = [one for number, (_, _, one) in enumerate(found) if number % 4 != 3]
    as_it_is, noise = prior_of(hardware), noise_of(QUANTITY)
    learnt = calibrate(widened(as_it_is), fitted, {QUANTITY: noise}, "this machine")
    print(f"{given.hardware}, {torch.get_num_threads()} threads, torch {torch.__version__}, seed {given.seed}")
    print(f"| shape held out | measured, s | class off by | fit off by |\n|{'---|' * 4}")
    for shape, rows, one in held_out:
        off = [one.measured / forecast(QUANTITY, one.terms, known, noise).value - 1 for known in (as_it_is, learnt)]
        name = f"{shape.n_layers} x {shape.d_model}, V {shape.vocab_size}, {rows} x {shape.tokens_per_row}"
        print(f"| {name} | {one.measured:.3f} | {off[0]:+.1%} | {off[1]:+.1%} |")
    used = sorted({name for one in fitted for name in one.terms})
    print(f"\n| constant | class | fitted | spread |\n|{'---|' * 4}")
    for name in used:
        print(f"| {name} | {as_it_is.value(name):.4g} | {learnt.value(name):.4g} | {learnt.log_sd(name):.2f} |")


if __name__ == "__main__":
    main()
