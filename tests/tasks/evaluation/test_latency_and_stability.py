"""What a checkpoint costs its users, and how its training went: medians, intervals, curves that are missing."""

import statistics

import pytest

from tasks._latency import time_replies
from tasks.benchmarks.intervals import Score
from tasks.evaluation import latency, report, stability
from tests.model.engine import tiny


def test_no_sequence_ends_before_it_was_measured():
    """Catches a rate computed from sequences that ended early at an end token."""
    engine = tiny.scripted([tiny.tokenizer().special_id("<|assistant_end|>")])
    ttft, step = time_replies(engine, sequences=2, prompt_tokens=4, new_tokens=6)
    assert [len(ids) for ids in engine.forward.fed] == [2] * 5  # the first token comes from the prompt, then 5 steps
    assert min(ttft, step) > 0


def test_latency_is_the_median_of_what_was_timed(monkeypatch):
    """The clock: each reply takes one second, so three replies and one that is not counted; and 20 ms, so many."""
    for seconds, replies in ((1.0, 3), (0.02, 24)):
        now: list[float] = [0.0]
        asked: list[tuple[int, int, int]] = []

        def reply(engine, sequences, prompt_tokens, new_tokens, now=now, asked=asked, seconds=seconds):
            now[0] += seconds
            asked.append((sequences, prompt_tokens, new_tokens))
            return 0.5 * len(asked), 0.1 * len(asked)

        monkeypatch.setattr(latency, "time_replies", reply)
        monkeypatch.setattr(latency.time, "perf_counter", lambda now=now: now[0])
        found = latency.measure(tiny.engine())
        assert found["ttft_seconds"].n == pytest.approx(replies, abs=1)
        counted = [0.5 * number for number in range(2, len(asked) + 1)]  # the first is the warm-up
        assert found["ttft_seconds"].value == statistics.median(counted)
        assert found["seconds_per_output_token"].value == pytest.approx(statistics.median(counted) / 5)
        assert set(asked) == {(1, 80, 16)}  # shortened to a context of 96


@pytest.mark.parametrize(
    ("n", "left_out"),
    [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (12, 2), (20, 5), (100, 39)],  # tables of the sign test, 5 % two-sided
)
def test_the_interval_of_a_median_leaves_out_what_the_sign_test_allows(n, left_out):
    score = latency.median_score([float(n - i) for i in range(n)])
    assert (score.low, score.high, score.n) == (1 + left_out, n - left_out, n)
    assert score.low <= score.value == (n + 1) / 2 <= score.high


def test_a_time_keeps_its_digits():
    """Catches microseconds rounded to nothing."""
    assert latency.as_json(Score(0.000123456, 1.2e-7, 12345.6, 3)) == {
        "value": 0.0001235, "low": 1.2e-7, "high": 12350.0, "n": 3,
    }  # fmt: skip


def curve(path, losses):
    lines = ["step,tokens,loss,lr,val_bpb", *(f"{i},{i},{loss},0.1," for i, loss in enumerate(losses, 1)), "9,9,,,1.5"]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_rise_counts_for_every_stage_after_it(tmp_path):
    curves = {
        "pretrain": curve(tmp_path / "p", [5.0] * 4),
        "midtrain": curve(tmp_path / "m", [2.0, 2.0, 2.0, 3.5, 3.5, 3.5]),
        "sft": curve(tmp_path / "s", [1.0, 1.0, 1.0, 1.25, 1.25, 1.25]),
        "rl": curve(tmp_path / "r", [-9.0, 9.0, 9.0, 9.0]),  # advantage-weighted: no cross-entropy
    }
    found = stability.loss_rises(curves)
    assert {stage: (score.value, score.n) for stage, score in found.items()} == {
        "pretrain": (0.0, 4),
        "midtrain": (1.5, 10),
        "sft": (1.5, 16),
        "rl": (1.5, 16),
    }


def test_stages_without_curve_are_passed_over(tmp_path):
    empty = tmp_path / "r"
    empty.write_text("")
    found = stability.loss_rises({"sft": curve(tmp_path / "s", [1.0, 0.5]), "rl": empty})
    assert {stage: score.n for stage, score in found.items()} == {"sft": 2, "rl": 2}
    assert stability.loss_rises({}) == {}


def test_a_loss_that_is_no_number_leaves_the_stability_unmeasured(tmp_path):
    """So that a threshold on it fails instead of being met by what is left."""
    curves = {"pretrain": curve(tmp_path / "p", [3.0, 2.0]), "midtrain": curve(tmp_path / "m", [2.0, float("nan")])}
    assert list(stability.loss_rises(curves)) == ["pretrain"]


def test_the_report_shows_units_and_says_what_is_missing():
    conduct = {
        "sft": {"ttft_seconds": Score(0.005, 0.0049, 0.0052, 12), "loss_rise_nats": Score(0.2, 0.2, 0.2, 200)},
        "rl": {"seconds_per_output_token": Score(0.0015, 0.0014, 0.0016, 12)},
    }
    text = report.markdown({}, conduct, [], {}, {"xz_bits_per_byte": 2.0, "bytes": 10}, {}, [])
    assert "| what | unit | sft | rl |" in text
    assert "| time to the first token | ms | 5 [4.9, 5.2], n=12 | - |" in text
    assert "| time per token after it | ms | - | 1.5 [1.4, 1.6], n=12 |" in text
    assert "| largest rise of the training loss | nats | 0.2, n=200 | - |" in text
    assert "Latency" not in report.markdown({}, {}, [], {}, {"xz_bits_per_byte": 2.0, "bytes": 10}, {}, [])


def test_every_measured_metric_can_be_asked_for():
    """Catches a benchmark that no threshold may name, or whose loss against the champion nobody looks at."""
    from pipeline_math.acceptance import METRICS

    assert set(report.BENCHMARKS) == {name for name, metric in METRICS.items() if metric.kind == "quality"}
    assert set(report.CONDUCT) == {name for name, metric in METRICS.items() if metric.kind in ("latency", "stability")}
