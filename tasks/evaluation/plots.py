"""Pictures of an evaluation: benchmark bars with intervals, training curves. PNG files, equal for equal inputs."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.benchmarks.intervals import Score


def draw(
    folder: Path, scores: Mapping[str, Mapping[str, Score]], curves: Mapping[str, Path], xz_bits_per_byte: float
) -> list[str]:
    """Write the pictures and return their file names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["benchmarks.png", "bits_per_byte.png"]
    _benchmarks(folder / names[0], scores)
    _bits_per_byte(folder / names[1], scores, xz_bits_per_byte)
    readable = {stage: points for stage, path in curves.items() if (points := _read_curve(path))}
    if readable:
        names.append("training.png")
        _training(folder / "training.png", readable)
    return names


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Software": None})  # the version in the file would be its only difference


def _benchmarks(path: Path, scores: Mapping[str, Mapping[str, Score]]) -> None:
    names = [n for n in dict.fromkeys(n for own in scores.values() for n in own) if n != "bits_per_byte"]
    figure, axes = _figure(7.5, 4)
    width = 0.8 / max(len(scores), 1)
    for number, (stage, own) in enumerate(scores.items()):
        places = [i + (number - (len(scores) - 1) / 2) * width for i, name in enumerate(names) if name in own]
        chosen = [own[name] for name in names if name in own]
        errors = [[s.value - s.low for s in chosen], [s.high - s.value for s in chosen]]
        axes.bar(places, [s.value for s in chosen], width * 0.9, label=stage, yerr=errors, capsize=2)
    axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set(ylim=(0, 1.05), ylabel="share of items (95 % interval)")
    axes.legend()
    _save(figure, path)


def _bits_per_byte(path: Path, scores: Mapping[str, Mapping[str, Score]], xz: float) -> None:
    figure, axes = _figure(5, 3.5)
    chosen = {stage: own["bits_per_byte"] for stage, own in scores.items() if "bits_per_byte" in own}
    values = list(chosen.values())
    errors = [[s.value - s.low for s in values], [s.high - s.value for s in values]]
    axes.bar(list(chosen), [s.value for s in values], yerr=errors, capsize=3)
    axes.axhline(xz, linestyle="--", color="black", linewidth=1)
    axes.annotate("xz -9, same bytes", (0, xz), xytext=(2, 3), textcoords="offset points", fontsize=8)
    axes.set(ylabel="bits per byte of held-out text")
    _save(figure, path)


def _training(path: Path, curves: Mapping[str, list[tuple[float, float]]]) -> None:
    figure, axes = _figure(7.5, 4)
    for stage, points in curves.items():
        axes.plot([tokens for tokens, _ in points], [loss for _, loss in points], label=stage, linewidth=1)
    axes.set(xlabel="tokens of the stage", ylabel="training loss (nats per supervised token)", xscale="log")
    axes.legend()
    _save(figure, path)


def _read_curve(path: Path) -> list[tuple[float, float]]:
    """(tokens, loss) of every row that has both; loss of rl is no cross-entropy, so negative values are left out."""
    points = []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                tokens, loss = float(row.get("tokens") or ""), float(row.get("loss") or "")
            except ValueError:
                continue
            if tokens > 0 and loss > 0:
                points.append((tokens, loss))
    return points
