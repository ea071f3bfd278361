"""The evaluation as Markdown: a table of scores with intervals, contamination, samples, pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.benchmarks.intervals import Score
from tasks.evaluation import latency

BENCHMARKS = {
    "bits_per_byte": "bits per byte of held-out text (lower is better)",
    "multiple_choice": "multiple choice on held-out documentation (chance: 0.25)",
    "arithmetic": "arithmetic with the tool: exact answer, held-out numbers and sentences",
    "tool_call": "arithmetic with the tool: exactly the right call",
    "ends_properly": "replies that end within their budget, with well-formed special tokens",
}
CONDUCT = {  # title, factor from the unit of the file, unit shown
    "ttft_seconds": ("time to the first token", 1e3, "ms"),
    "seconds_per_output_token": ("time per token after it", 1e3, "ms"),
    "loss_rise_nats": ("largest rise of the training loss", 1.0, "nats"),
}
SAMPLES_PER_KIND = 4


def markdown(
    scores: Mapping[str, Mapping[str, Score]],
    conduct: Mapping[str, Mapping[str, Score]],
    samples: Sequence[Mapping[str, Any]],
    contamination: Mapping[str, Any],
    yardstick: Mapping[str, float],
    same_as: Mapping[str, str],
    pictures: Sequence[str],
) -> str:
    """The content of report.md."""
    lines = ["# Evaluation", "", *_table(scores)]
    lines += [
        "",
        f"Intervals cover 95 %: Wilson's for shares, blocks of rows for bits per byte (n = bytes). xz -9 needs "
        f"{yardstick['xz_bits_per_byte']:.4f} bits per byte for the same {yardstick['bytes']:,.0f} bytes.",
        "Multiple choice is asked as a chat turn, of the base model as the document's heading and its first sentence; "
        "the choice with the highest log-likelihood per character counts.",
    ]
    lines += [
        f"`{stage}` holds the same weights as `{twin}`; its scores are copied." for stage, twin in same_as.items()
    ]
    lines += _conduct(conduct)
    lines += ["", "## Has training seen the test?", "", "| what | items | which |", "|---|---:|---|"]
    for what, found in contamination.items():
        lines.append(
            f"| {what} | {found['count']} | {', '.join(f'`{_cell(item)}`' for item in found['items']) or '-'} |"
        )
    if pictures:
        lines += ["", "## Pictures", "", *(f"![{name}](plots/{name})" for name in pictures)]
    return "\n".join([*lines, "", "## Samples", "", *_samples(samples)]) + "\n"


def one_line(stage: str, scores: Mapping[str, Score]) -> str:
    """The scores of one checkpoint for the log."""
    return f"{stage}: " + ", ".join(f"{name} {score.value:.3f}" for name, score in scores.items())


def _table(scores: Mapping[str, Mapping[str, Score]]) -> list[str]:
    stages = list(scores)
    lines = [f"| benchmark | {' | '.join(stages)} |", "|---|" + "---|" * len(stages)]
    for name, title in BENCHMARKS.items():
        if not any(name in own for own in scores.values()):
            continue
        cells = [_score(own[name]) if name in own else "-" for own in scores.values()]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def _conduct(conduct: Mapping[str, Mapping[str, Score]]) -> list[str]:
    """Latency and stability: nothing here says how good a model is, so nothing here is compared with the champion."""
    rows = []
    for name, (title, factor, unit) in CONDUCT.items():
        if any(name in own for own in conduct.values()):
            cells = [_scaled(own[name], factor) if name in own else "-" for own in conduct.values()]
            rows.append(f"| {title} | {unit} | {' | '.join(cells)} |")
    if not rows:
        return []
    return [
        "",
        "## Latency and stability",
        "",
        f"| what | unit | {' | '.join(conduct)} |",
        "|---|---|" + "---|" * len(conduct),
        *rows,
        "",
        f"One sequence, prompts of up to {latency.PROMPT_TOKENS} tokens; medians over n replies with 95 % intervals, "
        "this machine. The rise is that of the smoothed loss above its running minimum, over n curve points of all "
        "training stages up to the checkpoint; rl has no cross-entropy and adds nothing.",
    ]


def _scaled(score: Score, factor: float) -> str:
    low, high = (f"{bound * factor:.3g}" for bound in (score.low, score.high))
    interval = f" [{low}, {high}]" if score.low < score.high else ""
    return f"{score.value * factor:.3g}{interval}, n={score.n:,}"


def _score(score: Score) -> str:
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}], n={score.n:,}"


def _samples(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """A few replies of the last checkpoint that spoke, of every kind; wrong answers first, as they teach most."""
    if not samples:
        return ["No checkpoint that knows the chat format was measured."]
    last = samples[-1]["checkpoint"]
    own = [sample for sample in samples if sample["checkpoint"] == last]
    lines = [f"Replies of `{last}`; all of them: samples.jsonl.", ""]
    for kind in dict.fromkeys(sample["kind"] for sample in own):
        chosen = sorted((s for s in own if s["kind"] == kind), key=lambda s: s.get("correct", True))
        wrong = [s for s in chosen if not s.get("correct", True)][: SAMPLES_PER_KIND // 2]
        right = [s for s in chosen if s.get("correct", True)][: SAMPLES_PER_KIND - len(wrong)]
        for sample in wrong + right:
            calls = "".join(f" `{call} -> {result}`" for call, result in sample["tool_calls"])
            verdict = ""
            if "correct" in sample:
                verdict = " (right)" if sample["correct"] else f" (wrong: {sample['answer']})"
            question = " / ".join(message["content"] for message in sample["messages"])
            lines += [f"- **{_cell(question)}**{calls} {_cell(sample['reply'])}{verdict}"]
    return lines


def _cell(text: str) -> str:
    """Model output on one line, without signs that Markdown would act on."""
    return " ".join(text.replace("|", "/").replace("`", "'").replace("<", "&lt;").split())
