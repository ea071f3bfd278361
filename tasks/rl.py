"""rl: a few REINFORCE steps on problems whose answers can be checked.

Reads    artifacts/sft/checkpoint, artifacts/tokenizer/tokenizer.json
Writes   artifacts/rl/checkpoint, curve.csv, rewards.csv, problems.jsonl (every problem used)
Promise  problems have training numbers and training sentences only; a step without signal changes no weight; with 0
         steps the sft checkpoint is passed through bit by bit, and the log says so
Limits   on-policy, one update per rollout, no KL term, no ratio clipping; one process
"""

import csv
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from model.shape_of_config import shape_of_config
from pipeline_math.pretrain_step import width_learning_rate_factor
from tasks._context import StageContext
from tasks._errors import Interrupted, StageError
from tasks._params import StageParams
from tasks._training import ContextReporter, TrainingParams, device_of, write_curve
from tasks.benchmarks.arithmetic import Problem, is_correct, make_problem
from tasks.benchmarks.rollouts import RolloutBatches, RolloutSizes

if TYPE_CHECKING:
    from model.train_options import LoopOptions
    from pipeline_math.model_flops_vram import ModelShape


class Params(StageParams):
    """Parameters of reinforcement."""

    steps: Annotated[int, Field(ge=0)] = 4
    """Policy updates; 0 passes the sft checkpoint through."""
    prompts_per_step: Annotated[int, Field(ge=1)] = 16
    samples_per_prompt: Annotated[int, Field(ge=2)] = 8
    """Replies per problem; their mean reward is the baseline."""
    max_reply_tokens: Annotated[int, Field(ge=8)] = 48
    """Budget of one reply, forced tokens included."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    """None samples from the whole distribution, which is what the gradient assumes."""
    learning_rate_scale: Annotated[float, Field(gt=0)] = 0.005
    """Factor on the nominal rates of pretraining (at 2^19 tokens per step); falls to 0 over the run."""
    micro_batch_rows: Annotated[int, Field(ge=1)] = 32
    seed: int = 0


def problem_of(seed: int, step: int, number: int) -> Problem:
    """Problem `number` of a step; it depends on nothing else, so a resumed run asks what the killed one would have."""
    return make_problem(f"{seed}/rl/{step}/{number}", "train", "train")


def reward(problem: Problem, text: str) -> float:
    """1 for the exact answer, else 0."""
    return float(is_correct(text, problem.answer))


def run(ctx: StageContext) -> None:
    params = ctx.params
    assert isinstance(params, Params)
    init = ctx.input("artifacts/sft/checkpoint")
    _write_problems(ctx.out / "problems.jsonl", params)
    if params.steps == 0:
        _pass_through(ctx, init)
        return
    if ctx.runtime.processes > 1:
        ctx.note(f"runs in one process; runtime.processes={ctx.runtime.processes} applies to the other training stages")

    history, result, shape = _train(ctx, params, init)

    _write_rewards(ctx.out / "rewards.csv", history)
    useful = sum(row["useful_groups"] for row in history) / len(history)
    ctx.count(
        **vars(shape),
        steps=result.steps,
        batch_tokens=result.tokens / result.steps,
        micro_batch_rows=params.micro_batch_rows,
        decode_steps=sum(row.get("decode_steps", 0) for row in history),
        rows_per_decode_step=sum(row.get("decoded_tokens", 0) for row in history)
        / max(1.0, sum(row.get("decode_steps", 0) for row in history)),
    )
    ctx.report(
        steps=result.steps,
        reward_first=round(history[0]["reward"], 5),
        reward_last=round(history[-1]["reward"], 5),
        useful_groups=round(useful, 5),
        rollout_tokens=sum(row["tokens"] for row in history),
    )
    ctx.note(f"mean reward {history[0]['reward']:.3f} -> {history[-1]['reward']:.3f}; {useful:.0%} of groups useful")


def _train(ctx: StageContext, params: Params, init: Path) -> tuple[list[dict[str, float]], Any, "ModelShape"]:
    import torch

    from model.checkpoint import load_weights, save_weights
    from model.tokenizer import Tokenizer
    from model.train_loop import train
    from model.train_options import TrainingInterrupted

    tokenizer = Tokenizer.from_file(ctx.input("artifacts/tokenizer/tokenizer.json"))
    torch.set_num_threads(ctx.runtime.threads or ctx.cores)
    model, meta = load_weights(init, device_of(ctx.runtime))
    if meta.get("tokenizer_sha256") != tokenizer.sha256:
        raise StageError(
            f"{init} was trained with tokenizer {str(meta.get('tokenizer_sha256'))[:12]}, artifacts/tokenizer is "
            f"{tokenizer.sha256[:12]}; next: `dvc repro sft`"
        )
    sizes = RolloutSizes(
        params.prompts_per_step, params.samples_per_prompt, params.max_reply_tokens, params.temperature, params.top_k
    )
    batches = RolloutBatches(
        model, tokenizer, sizes, params.seed, lambda step, number: problem_of(params.seed, step, number), reward
    )
    rollouts = params.steps * params.prompts_per_step * params.samples_per_prompt
    try:
        with ctx.progress("rl", rollouts * params.max_reply_tokens, "tok") as bar:
            result = train(
                model,
                batches,
                _options(ctx, params, model.config.d_model),
                resume_folder=ctx.resume / "states",
                report=ContextReporter(ctx, bar),
                stop_requested=ctx.stop_requested,
            )
    except TrainingInterrupted as interruption:
        raise Interrupted(str(interruption)) from None
    except ValueError as error:
        raise StageError(f"stage rl: {error}") from error
    new_meta = {"stage": "rl", "step": result.steps, "tokens": result.tokens, "tokenizer_sha256": tokenizer.sha256}
    save_weights(ctx.out / "checkpoint", model, {**new_meta, "key": ctx.key})
    write_curve(ctx.out / "curve.csv", result.curve)
    return batches.history, result, shape_of_config(model.config)


def _options(ctx: StageContext, params: Params, d_model: int) -> "LoopOptions":
    from model.divergence import GuardOptions
    from model.optim import OptimizerOptions
    from model.train_options import LoopOptions, Schedule

    nominal = TrainingParams()
    adamw = params.learning_rate_scale * width_learning_rate_factor(d_model)
    return LoopOptions(
        schedule=Schedule(params.steps, warmup_fraction=0.0, warmdown_fraction=1.0, final_lr_fraction=0.0),
        optimizer=OptimizerOptions(
            matrix_lr=nominal.matrix_lr * params.learning_rate_scale,
            embedding_lr=nominal.embedding_lr * adamw,
            head_lr=nominal.head_lr * adamw,
            weight_decay=0.0,  # decay would move the weights of steps without signal too
        ),
        guard=GuardOptions(signed=True),  # advantage-weighted losses have either sign
        seed=params.seed,
        micro_batch_rows=params.micro_batch_rows,
        checkpoint_seconds=ctx.runtime.checkpoint_seconds,
        failure_seconds=3600.0 * ctx.runtime.hours_between_failures,
        keep_states=ctx.runtime.keep_states,
        code_key=ctx.code_key,
    )


def _pass_through(ctx: StageContext, init: Path) -> None:
    """The sft checkpoint under the name of this stage; only meta.json says that no step was taken."""
    target = ctx.out / "checkpoint"
    shutil.copytree(init, target)
    meta = json.loads((target / "meta.json").read_text(encoding="utf-8"))
    meta |= {"stage": "rl", "step": 0, "passed_through_from": "sft", "key": ctx.key}
    (target / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
    write_curve(ctx.out / "curve.csv", [])
    _write_rewards(ctx.out / "rewards.csv", [])
    ctx.count(steps=0)
    ctx.report(steps=0)
    ctx.note("0 steps: the sft checkpoint is passed through unchanged")


def _write_problems(path: Path, params: Params) -> None:
    with path.open("w", encoding="utf-8") as file:
        for step in range(params.steps):
            for number in range(params.prompts_per_step):
                problem = problem_of(params.seed, step, number)
                file.write(json.dumps({"question": problem.question, "expression": problem.expression}) + "\n")


def _write_rewards(path: Path, history: list[dict[str, float]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, ["step", "reward", "useful_groups", "tokens", "decode_steps", "decoded_tokens"], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(history)
