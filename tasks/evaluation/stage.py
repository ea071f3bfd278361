"""evaluation: what can each checkpoint do, how sure are we, and has training seen the test?

Reads    artifacts/{pretrain,midtrain,sft,rl}/checkpoint and curve.csv, artifacts/{midtrain,sft}/conversations.parquet,
         artifacts/rl/problems.jsonl, artifacts/shards, artifacts/corpus/documents, artifacts/tokenizer/tokenizer.json
Writes   artifacts/evaluation/scores.json, latency_and_stability.json, contamination.json, samples.jsonl, report.md,
         plots/*.png
Promise  every score has an interval and a number of items; every evaluation item that training has seen is counted
         and listed; equal inputs give equal files but for times, which are in latency_and_stability.json and its table
Limits   log-likelihood benchmarks measure every checkpoint, generated ones only those that know the chat format; the
         interval covers the choice of items, not the spread between training runs
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from model.shape_of_config import shape_of_config
from tasks._context import StageContext
from tasks._errors import StageError
from tasks._files import write_json
from tasks._params import StageParams
from tasks.benchmarks.documentation import DocumentedObject, read_documents, read_objects
from tasks.benchmarks.intervals import Score, share
from tasks.benchmarks.multiple_choice import Item, choose, log_likelihoods, make_items, requests
from tasks.benchmarks.normal import normal
from tasks.evaluation import compression, contamination, latency, plots, replies, report, stability
from tasks.evaluation.training_text import search_training_text
from tasks.stages import Stage

if TYPE_CHECKING:
    from model.gpt import GPT
    from model.tokenizer import Tokenizer

Checkpoint = Literal["pretrain", "midtrain", "sft", "rl"]
_TRAINED = (Stage.PRETRAIN, Stage.MIDTRAIN, Stage.SFT, Stage.RL)


class Params(StageParams):
    """Sizes of the benchmarks; more items narrow the intervals and take longer."""

    checkpoints: Annotated[tuple[Checkpoint, ...], Field(min_length=1)] = ("pretrain", "midtrain", "sft", "rl")
    """Training stages whose checkpoints are measured, in the order of the report."""
    bits_per_byte_rows: Annotated[int, Field(ge=1)] = 96
    """Rows of the val split, spread over all of it."""
    multiple_choice_items: Annotated[int, Field(ge=0)] = 120
    arithmetic_items: Annotated[int, Field(ge=0)] = 250
    """Problems with held-out numbers in held-out sentences."""
    form_items: Annotated[int, Field(ge=0)] = 60
    """Prompts of other kinds, to see whether replies end properly."""
    max_reply_tokens: Annotated[int, Field(ge=8)] = 96
    """Budget of one reply; one that is longer counts as not ending properly."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type of generation."""
    seed: int = 0


class Materials:
    """What is asked, the same for every checkpoint."""

    def __init__(self, ctx: StageContext, params: Params, tokenizer: "Tokenizer") -> None:
        from model.batches import read_manifest

        documents = ctx.input("artifacts/corpus/documents")
        self.shards = ctx.input("artifacts/shards")
        splits = ctx.input("artifacts/shards/documents.parquet")
        self.tokens_per_row = int(read_manifest(self.shards)["tokens_per_row"])
        self.tokenizer = tokenizer
        self.held_out: list[DocumentedObject] = read_objects(documents, splits, "val")
        self.val_documents = [(row["id"], normal(row["text"])) for row in read_documents(documents, splits, "val")]
        descriptions = {normal(found.description) for found in self.held_out}
        whole = {text for _, text in self.val_documents}
        self.trained_on = search_training_text(ctx, documents, splits, descriptions, whole)
        self.items: list[Item]
        self.items, self.left_out = make_items(
            self.held_out, "\n".join(sorted(self.trained_on.descriptions)), params.multiple_choice_items, params.seed
        )
        self.arithmetic, self.left_out_arithmetic = replies.arithmetic_prompts(
            params.arithmetic_items, params.seed, self.trained_on.expressions
        )
        self.form = replies.form_prompts(params.form_items, self.held_out, params.seed)


def run(ctx: StageContext) -> None:
    params = ctx.params
    assert isinstance(params, Params)
    from model.gpt import GPTConfig
    from model.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_file(ctx.input("artifacts/tokenizer/tokenizer.json"))
    materials = Materials(ctx, params, tokenizer)
    work: Counter[str] = Counter()
    if len(materials.items) < params.multiple_choice_items:
        ctx.note(f"only {len(materials.items)} of {params.multiple_choice_items} multiple-choice items could be made")

    text = compression.held_out_bytes(materials.shards, tokenizer, params.bits_per_byte_rows)
    xz = compression.xz_bits_per_byte(text)
    scores: dict[str, dict[str, Score]] = {}
    conduct: dict[str, dict[str, Score]] = {}  # latency and stability: no quality, so not among the scores
    samples: list[dict[str, Any]] = []
    same_as: dict[str, str] = {}
    hashes: dict[str, str] = {}
    with ctx.progress("evaluation", len(params.checkpoints), "checkpoint") as bar:
        for stage in params.checkpoints:
            ctx.check_stop()
            folder = ctx.input(f"artifacts/{stage}/checkpoint")
            digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
            chat = stage != Stage.PRETRAIN
            twin = next((s for s, other in hashes.items() if other == digest and (s != Stage.PRETRAIN) == chat), None)
            if twin:  # rl with 0 steps passes the sft checkpoint through: the same weights have the same scores
                same_as[stage], scores[stage], conduct[stage] = twin, scores[twin], dict(conduct[twin])
            else:
                scores[stage], conduct[stage] = _measure(ctx, params, folder, chat, materials, samples, work, stage)
            hashes[stage] = digest
            bar.update(1, checkpoint=stage)

    config = GPTConfig.from_json(ctx.input(f"artifacts/{params.checkpoints[0]}/checkpoint") / "config.json")
    ctx.count(
        **vars(shape_of_config(config)),
        forward_tokens=work["forward_tokens"],
        decode_steps=work["decode_steps"],
        rows_per_decode_step=work["decoded_tokens"] / max(1, work["decode_steps"]),
        checkpoints=work["checkpoints"],
        text_bytes=materials.trained_on.characters,
    )
    curves = {str(trained): path for trained in _TRAINED if (path := _optional(ctx, f"artifacts/{trained}/curve.csv"))}
    for trained, score in stability.loss_rises(curves).items():
        if trained in conduct:
            conduct[trained]["loss_rise_nats"] = score
    findings = _contamination(ctx, materials, params)
    yardstick = {"xz_bits_per_byte": xz, "bytes": len(text)}
    _write(ctx, params, materials, scores, conduct, samples, findings, yardstick, same_as, curves)


def _measure(
    ctx: StageContext,
    params: Params,
    folder: Path,
    chat: bool,
    materials: Materials,
    samples: list[dict[str, Any]],
    work: Counter[str],
    stage: str,
) -> tuple[dict[str, Score], dict[str, Score]]:
    """Scores and latency of one checkpoint; its replies are appended to `samples`, what was computed to `work`."""
    import torch

    from model.checkpoint import load_weights
    from model.engine.engine import Engine
    from tasks._training import device_of

    model, meta = load_weights(folder, device_of(ctx.runtime))
    tokenizer = materials.tokenizer
    if meta.get("tokenizer_sha256", tokenizer.sha256) != tokenizer.sha256:
        raise StageError(
            f"{folder} was trained with tokenizer {meta['tokenizer_sha256'][:12]}, artifacts/tokenizer is "
            f"{tokenizer.sha256[:12]}; next: `dvc repro {stage}`"
        )
    scores: dict[str, Score] = {}
    with torch.inference_mode():
        scores["bits_per_byte"] = compression.bits_per_byte(
            model, materials.shards, tokenizer.bytes_per_id(), params.bits_per_byte_rows
        )
        work["forward_tokens"] += params.bits_per_byte_rows * materials.tokens_per_row
        if materials.items:
            scores["multiple_choice"] = _multiple_choice(model, materials.items, tokenizer, chat, work)
    ctx.check_stop()
    engine = Engine.from_model(model, tokenizer, dtype=params.dtype)
    if chat and (materials.arithmetic or materials.form):
        spoken = replies.generate(engine, [*materials.arithmetic, *materials.form], params.max_reply_tokens)
        if materials.arithmetic:
            scores |= replies.score_arithmetic(spoken[: len(materials.arithmetic)])
        scores["ends_properly"] = replies.score_form(spoken)
        samples.extend(replies.as_json(stage, reply) for reply in spoken)
    done = engine.forward.work  # before the latency is measured: that takes the time it is given
    work.update(forward_tokens=done.prefill_tokens, decode_steps=done.decode_steps, decoded_tokens=done.decoded_tokens)
    work.update(checkpoints=1)
    return scores, latency.measure(engine)


def _multiple_choice(
    model: "GPT", items: Sequence[Item], tokenizer: "Tokenizer", chat: bool, work: Counter[str]
) -> Score:
    pairs = [pair for item in items for pair in requests(item, tokenizer, chat)]
    work["forward_tokens"] += sum(len(context) + len(continuation) for context, continuation in pairs)
    values = iter(log_likelihoods(model, pairs))
    right = [choose(item, [next(values) for _ in item.choices]) == item.gold for item in items]
    return share(sum(right), len(items))


def _contamination(ctx: StageContext, materials: Materials, params: Params) -> contamination.Findings:
    conversations = [
        ctx.input(f"artifacts/{stage}/conversations.parquet")
        for stage in params.checkpoints
        if stage in ("midtrain", "sft")
    ]
    problems = [ctx.input("artifacts/rl/problems.jsonl")] if Stage.RL in params.checkpoints else []
    trained = contamination.read_trained(conversations, problems)
    asked = [prompt.problem for prompt in materials.arithmetic if prompt.problem]
    text, held_out = materials.trained_on, materials.val_documents
    return contamination.check(asked, materials.items, trained, text.documents, held_out, text.expressions)


def _write(
    ctx: StageContext,
    params: Params,
    materials: Materials,
    scores: dict[str, dict[str, Score]],
    conduct: dict[str, dict[str, Score]],
    samples: list[dict[str, Any]],
    findings: contamination.Findings,
    yardstick: dict[str, float],
    same_as: dict[str, str],
    curves: dict[str, Path],
) -> None:
    write_json(ctx.out / "scores.json", {s: {b: v.as_json() for b, v in own.items()} for s, own in scores.items()})
    measured = {s: {m: latency.as_json(v) for m, v in own.items()} for s, own in conduct.items()}
    write_json(ctx.out / "latency_and_stability.json", measured)
    found = findings.as_json()
    for benchmark, names in (
        ("multiple choice", materials.left_out),
        ("arithmetic", materials.left_out_arithmetic),
    ):
        listed = {"count": len(names), "items": names[: contamination.LISTED]}
        found[f"left out of {benchmark}, because training documents contain it"] = listed
    write_json(ctx.out / "contamination.json", found)
    with (ctx.out / "samples.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    drawn = {str(stage): curves[stage] for stage in params.checkpoints if stage in curves}
    pictures = plots.draw(ctx.out / "plots", scores, drawn, yardstick["xz_bits_per_byte"])
    (ctx.out / "report.md").write_text(
        report.markdown(scores, conduct, samples, found, yardstick, same_as, pictures), encoding="utf-8"
    )
    for stage, own in scores.items():
        ctx.report(**{f"{stage}_{name}": round(score.value, 5) for name, score in own.items()})
        ctx.report(**{f"{stage}_{name}": score["value"] for name, score in measured[stage].items()})
    ctx.report(xz_bits_per_byte=round(yardstick["xz_bits_per_byte"], 5), contaminated_items=findings.total)
    ctx.note("scores of " + "; ".join(report.one_line(stage, own) for stage, own in scores.items()))


def _optional(ctx: StageContext, path: str) -> Path | None:
    """An input that makes the report richer and may be missing (rl with 0 steps has no curve)."""
    try:
        return ctx.input(path)
    except StageError:
        return None
