"""Pictures of forecasts: what they say in words, where points lie, and that equal inputs give equal files."""

import math
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline_math.interval import Interval
from pipeline_math.ledger import Row
from tasks import _forecast_plots as plots
from tasks._figures import KEYS, with_unit
from tasks.stages import Stage

ROW = Row("corpus", "seconds", 10.0, 8.0, 12.0, 11.0, "m", "k", "r", "cpu-2core", "laptop", "g", "2026-01-01", {})


def row(stage: str, measured: float, predicted: float | None = 10.0, **changes: Any) -> Row:
    """A row whose interval is +-20 %, or one without prediction."""
    low, high = (None, None) if predicted is None else (0.8 * predicted, 1.2 * predicted)
    return replace(
        ROW, **{"stage": stage, "measured": measured, "predicted": predicted, "low": low, "high": high} | changes
    )


def words(path: Path) -> list[str]:
    """Texts of an SVG, in drawing order."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8"))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The axes that were drawn on, with the data still in them."""
    kept: list[Any] = []
    original = plots.drawing

    @contextmanager
    def keeping(*arguments: Any) -> Iterator[Any]:
        with original(*arguments) as axes:
            kept.append(axes)
            yield axes

    monkeypatch.setattr(plots, "drawing", keeping)
    return kept


def test_stages_stand_in_the_order_of_the_pipeline_with_what_came_out(tmp_path: Path) -> None:
    rows = [row("chat", 5.0), row("corpus", 11.0), row("gate", 3.0, None)]
    assert plots.predicted_vs_measured(rows, tmp_path / "p.svg", {"shards": Interval(6, 5, 7)})
    found = words(tmp_path / "p.svg")
    stages = [text for text in found if text[-1:].isalpha() and text.split()[-1] in list(Stage)]
    assert stages == ["01 corpus", "03 shards", "07b gate", "10 chat"]
    told = found[found.index("10 chat") + 1 :]  # words beside the lines follow the ticks, in the same order
    assert told[:4] == ["11 s, +10%", "not run", "3 s", "5 s, -50%, outside"]


def test_outside_is_told_by_shape_too() -> None:
    """A printout without colours must still tell inside, outside and without prediction apart."""
    looks = [KEYS[name] for name in ("measured, inside", "measured, outside", "no prediction")]
    assert len({look["marker"] for look in looks}) == 3
    assert len({look["markerfacecolor"] == "none" for look in looks}) == 2


def test_the_newest_row_of_a_stage_is_shown(tmp_path: Path) -> None:
    rows = [row("corpus", 9.0, time="2026-01-02"), row("corpus", 11.0, time="2026-01-01")]
    plots.predicted_vs_measured(rows, tmp_path / "p.svg")
    assert "9 s, -10%" in words(tmp_path / "p.svg") and "11 s, +10%" not in words(tmp_path / "p.svg")


def test_values_without_a_logarithm_are_words_only(tmp_path: Path, drawn: list[Any]) -> None:
    """A sum of intervals may reach down to 0, and a stage may measure 0 s: neither may stretch the axis to nothing."""
    rows = [row("budget", 0.0), row("corpus", 11.0, low=0.0), row("gate", math.nan)]
    assert plots.predicted_vs_measured(rows, tmp_path / "p.svg")
    left, right = drawn[0].get_xlim()
    assert 0 < left < 8 and right < 100
    assert "0 ms, -100%, outside" in words(tmp_path / "p.svg")
    assert not any("gate" in text for text in words(tmp_path / "p.svg"))


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_equal_inputs_give_equal_files(tmp_path: Path, suffix: str) -> None:
    """Pictures are outputs that DVC hashes: dates, versions or random ids in them would make stages stale."""
    for folder in ("a", "b"):
        assert plots.predicted_vs_measured([ROW], tmp_path / folder / f"p.{suffix}")
    assert (tmp_path / "a" / f"p.{suffix}").read_bytes() == (tmp_path / "b" / f"p.{suffix}").read_bytes()


def test_nothing_to_show_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "p.svg"
    shown = [
        plots.predicted_vs_measured([], path),
        plots.time_breakdown([], path),
        plots.memory_breakdown({}, 1e9, path),
        plots.loss_forecast([], Interval(1.2, 1.1, 1.3), path),
        plots.loss_forecast([{"step": "1", "tokens": "8", "loss": "3.0"}], None, path),
        plots.accuracy([row("gate", 1.0, None), row("export", 7.0, 7.0, low=7.0, high=7.0)], path),
    ]
    assert shown == [False] * len(shown) and not path.exists()


def test_shares_of_the_time_add_up(tmp_path: Path) -> None:
    assert plots.time_breakdown([row("corpus", 30.0, 20.0), row("shards", 10.0, 60.0)], tmp_path / "t.svg")
    found = words(tmp_path / "t.svg")
    assert {"20 s, 25.0%", "60 s, 75.0%", "30 s, 75.0%", "10 s, 25.0%"} <= set(found)
    assert {"predicted: 80 s in 2 stages", "measured: 40 s in 2 stages"} <= set(found)


def test_a_plan_alone_has_one_bar_per_stage(tmp_path: Path, drawn: list[Any]) -> None:
    assert plots.time_breakdown([], tmp_path / "t.svg", {"corpus": Interval(1, 1, 1), "sft": Interval(3, 3, 3)})
    assert [bar.get_width() for bar in drawn[0].patches] == [0.25, 0.75]


def test_parts_of_the_memory_lie_end_to_end(tmp_path: Path, drawn: list[Any]) -> None:
    parts = {"weights": 1e9, "attention_scores_bytes": 2e9, "cost of $x$ < 1": 1e9}
    assert plots.memory_breakdown(parts, 8e9, tmp_path / "m.svg", 5e9)
    bars = [(bar.get_x(), bar.get_width()) for bar in drawn[0].patches]
    assert bars == [(0, 1e9), (1e9, 2e9), (3e9, 1e9), (0, 4e9), (0, 5e9)]
    found = words(tmp_path / "m.svg")
    assert "4 GB predicted, 50.0% of the device's 8 GB" in found
    assert {"attention scores", "cost of $x$ &lt; 1", "2 GB, 50%", "measured peak", "limit of the device"} <= set(found)


def test_a_limit_far_away_is_told_and_not_drawn(tmp_path: Path, drawn: list[Any]) -> None:
    plots.memory_breakdown({"weights": 1e6}, 64e9, tmp_path / "m.svg")
    assert drawn[0].get_xlim()[1] < 2e6
    assert not drawn[0].lines and "64 GB" in drawn[0].get_title(loc="left")


@pytest.mark.parametrize("bad", [{"parts": {"weights": -1.0}}, {"parts": {"weights": math.nan}}, {"limit_bytes": 0.0}])
def test_impossible_memory_is_refused(tmp_path: Path, bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="allowed are"):
        plots.memory_breakdown(**{"parts": {"weights": 1.0}, "limit_bytes": 1e9, "path": tmp_path / "m.svg"} | bad)


def test_loss_and_evaluations_share_one_scale(tmp_path: Path, drawn: list[Any]) -> None:
    """nats / (ln 2 * bytes per token): a loss equal to the evaluation's must lie at the evaluation's height."""
    bytes_per_token, bpb = 3.5, 1.4
    nats = bpb * math.log(2) * bytes_per_token
    curve = [
        {"step": "1", "tokens": "1000", "loss": "5.0", "val_bpb": "", "val_nats": ""},
        {"step": "2", "tokens": "2000", "loss": str(nats), "val_bpb": str(bpb), "val_nats": str(nats)},
    ]
    for known in (None, bytes_per_token):
        assert plots.loss_forecast(curve, Interval(1.3, 1.2, 1.35), tmp_path / "l.svg", known)
        lines = {line.get_label(): line.get_ydata() for line in drawn[-1].lines}
        assert lines["training loss"][-1] == pytest.approx(bpb)
        assert list(lines["held out, last 1.400, outside"]) == [bpb]
    assert "forecast 1.300, 90 %: 1.200 to 1.350" in words(tmp_path / "l.svg")


def test_accuracy_counts_what_the_intervals_held(tmp_path: Path, drawn: list[Any]) -> None:
    rows = [row("corpus", 10.0), row("corpus", 11.0), row("corpus", 9.0), row("shards", 20.0), row("sft", math.nan)]
    exact = row("export", 8.0, 8.0, low=8.0, high=8.0, quantity="export_bytes")
    assert plots.accuracy([*rows, exact, replace(exact, measured=9.0)], tmp_path / "a.svg")
    title = drawn[0].get_title(loc="left")
    assert "held 3 of 4 measurements (75%)" in title and "exact predictions: 1 of 2 equal" in title
    points = {line.get_marker(): list(line.get_xdata()) for line in drawn[0].lines if line.get_marker() in "oD"}
    assert points["o"] == pytest.approx([0.0, math.log(1.1), math.log(0.9)])
    assert points["D"] == pytest.approx([math.log(2)])


@pytest.mark.parametrize(
    ("quantity", "value", "text"),
    [
        ("seconds", 0.0042, "4.2 ms"),
        ("seconds", 119.0, "119 s"),
        ("seconds", 247.2, "4.12 min"),
        ("seconds_per_output_token", 0.25, "0.25 s"),
        ("seconds", 3 * 3600.0, "3 h"),
        ("peak_memory_bytes", 1.31e9, "1.31 GB"),
        ("kv_bytes_per_token", 4096.0, "4.1 kB"),
        ("bytes_per_token", 3.512, "3.51"),
        ("tokens_per_second", 14499.4, "14,499"),
        ("kept_share", 0.791, "79.1%"),
        ("bits_per_byte", 1.5, "1.500"),
        ("seconds", math.nan, "nan"),
    ],
)
def test_numbers_carry_the_unit_of_their_name(quantity: str, value: float, text: str) -> None:
    assert with_unit(quantity, value) == text


def test_matplotlib_is_imported_only_where_it_draws() -> None:
    """A stage that imports the module and draws nothing must not pay for matplotlib."""
    code = "import sys, tasks._forecast_plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
