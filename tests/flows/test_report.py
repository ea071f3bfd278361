"""The report's page: numbers with their origin, nothing from outside, useful while pieces are missing."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from flows._report import write_report
from pipeline_math.ledger import Row
from tasks._figures import GRID, INK, PAPER
from tasks.stages import Stage

KEYS = {str(stage): f"{number:02d}key{stage}".ljust(64, "0") for number, stage in enumerate(Stage)}
PREDICTED = {"seconds": (10.0, 8.0, 12.0), "bits_per_byte": (1.5, 1.4, 1.6), "checkpoint_bytes": (4096.0,) * 3}


def row(stage: str, quantity: str, measured: float, **changes: Any) -> Row:
    predicted, low, high = PREDICTED.get(quantity, (None, None, None))
    known = Row(
        stage, quantity, predicted, low, high, measured, "two cores", KEYS[stage], f"run-of-{stage}-0123456789",
        "cpu-2core", "laptop", "abc1234", "2026-01-01T00:00:00", {},
    )  # fmt: skip
    return replace(known, **changes)


def rows() -> list[Row]:
    """A finished run: every stage took 11 s, 10 were forecast."""
    more = [
        row("pretrain", "bits_per_byte", 1.7),
        row("pretrain", "checkpoint_bytes", 4096.0),
        row("pretrain", "peak_memory_bytes", 1.3e9),
        row("tokenizer", "bytes_per_token", 3.5),
    ]
    return [*(row(str(stage), "seconds", 11.0) for stage in Stage), *more]


def put(root: Path, path: str, content: Any) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A folder with everything a finished run leaves."""
    seconds = {str(stage): {"seconds": {"value": 10.0, "low": 8.0, "high": 12.0}} for stage in Stage}
    put(
        tmp_path,
        "artifacts/budget/plan.json",
        {"depth": 4, "d_model": 256, "train_tokens": 3465216, "hardware": "cpu-2core", "devices": 1},
    )
    put(
        tmp_path,
        "artifacts/budget/forecast.json",
        {
            "predictions": seconds,
            "total": {"seconds_interval": {"value": 140.0, "low": 130.0, "high": 150.0}, "usd": 0.5},
            "memory": {"parts": {"weights": 5e8, "activations": 7e8}, "limit_bytes": 16e9},
            "warnings": ["the model is undertrained"],
        },
    )
    asked = [{"metric": "arithmetic", "checkpoint": "selected", "at_least": 0.9, "at_most": None}]
    asked += [{"metric": "ttft_seconds", "checkpoint": "selected", "at_least": None, "at_most": 0.2}]
    put(tmp_path, "artifacts/budget/acceptance.json", {"thresholds": asked})
    put(tmp_path, "artifacts/budget/hardware.json", {"device": {"name": "cpu-2core", "memory_bytes": 16e9}})
    score = {"value": 0.9712, "low": 0.9423, "high": 0.9856, "n": 200}
    put(tmp_path, "artifacts/evaluation/scores.json", {"rl": {"arithmetic": score}})
    check = {"name": "arithmetic of rl >= 0.9", "value": 0.9712, "threshold": 0.9, "passed": True}
    put(tmp_path, "artifacts/gate/verdict.json", {"passed": True, "selected": "rl", "checks": [check]})
    put(
        tmp_path,
        "artifacts/pretrain/curve.csv",
        "step,tokens,loss,lr,val_bpb,val_nats\n1,8192,5.0,0.1,,\n2,16384,4.0,0.1,1.7,4.1\n",
    )
    return tmp_path


class Page(HTMLParser):
    """Tags, ids and texts of a page; fails on tags that are not closed in order."""

    EMPTY = frozenset({"meta", "br"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(self.source)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing, at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.texts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(text for text in self.texts if text)

    def values(self, *names: str) -> list[str]:
        """Values of the attributes with these names, over all tags."""
        return [value or "" for _, attributes in self.tags for name, value in attributes.items() if name in names]


def test_the_page_holds_what_was_planned_and_what_came_out(finished: Path) -> None:
    page = Page(write_report(finished, rows(), KEYS))
    for expected in (
        "4 layers, 256 channels",
        "3,465,216 tokens on 1 x cpu-2core",
        "2.57 min",  # 14 stages of 11 s
        "forecast 2.33 min, 90 %: 2.17 min to 2.5 min; +10.0%, outside; 14 of 14 stages measured",
        "1.700 forecast 1.500, 90 %: 1.400 to 1.600; +13.3%, outside; pretrain, run run-of-pretr, K 05keypretrai",
        "Verdict passed",
        "14 of 15",  # seconds inside everywhere, the loss outside, exact ones not counted
        "the model is undertrained",
        "seconds 10 s 8 s to 12 s 11 s +10.0% inside run-of-chat- 13keychat000",
        "checkpoint bytes 4,096 exact 4,096 equal",
        "peak memory bytes 1.3 GB",
        "arithmetic of rl >= 0.9 0.9712 passed",
        "ttft_seconds of selected <= 0.2 not measured not judged",
        "rl arithmetic 0.9712 0.9423 to 0.9856 200",
        "device: memory bytes 16 GB",
        KEYS["chat"],
        "run-of-chat-0123456789",
    ):
        assert expected in page.text, expected
    assert "Not there yet" not in page.text


def test_every_picture_is_in_the_page_and_in_a_file(finished: Path) -> None:
    page = Page(write_report(finished, rows(), KEYS))
    files = sorted(path.name for path in (finished / "reports" / "plots").iterdir())
    assert files == [
        "accuracy.svg",
        "loss_forecast.svg",
        "memory_breakdown.svg",
        "predicted_vs_measured.svg",
        "time_breakdown.svg",
    ]
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(pictures) == len(files) and all(picture["role"] == "img" for picture in pictures)
    assert sum(tag == "title" for tag, _ in page.tags) == len(files) + 1


def test_the_page_needs_nothing_from_elsewhere(finished: Path) -> None:
    page = Page(write_report(finished, rows(), KEYS))
    assert not {"script", "link", "iframe", "img", "object"} & {tag for tag, _ in page.tags}
    targets = page.values("href", "src", "xlink:href")
    assert targets and all(target.startswith(("#", "plots/")) for target in targets), targets
    assert all((finished / "reports" / target).exists() for target in targets if not target.startswith("#"))
    assert "@import" not in page.source and "http://" not in page.source and "https://" not in page.source


def test_ids_are_unique_and_references_lead_somewhere(finished: Path) -> None:
    """Pictures number their parts alike: taken into one page as they are, one would clip with the frame of another."""
    page = Page(write_report(finished, rows(), KEYS))
    ids = page.values("id")
    assert len(ids) > 100 and len(ids) == len(set(ids))
    references = [target for target in page.values("href", "xlink:href") if target.startswith("#")]
    references += [f"#{part.split(')')[0]}" for part in page.source.split("url(#")[1:]]
    assert len(references) > 100 and {reference[1:] for reference in references} <= set(ids)


def test_text_from_outside_cannot_become_markup(finished: Path) -> None:
    evil = '<script>alert("x")</script>'
    put(finished, "work/gate/failed.json", {"error": f"gate: {evil}"})
    put(finished, "artifacts/budget/plan.json", {"depth": evil, evil: 3, "train_tokens": 1})
    put(
        finished,
        "artifacts/gate/verdict.json",
        {"passed": False, "selected": evil, "checks": [{"name": evil, "value": None, "passed": False}]},
    )
    put(finished, "artifacts/evaluation/scores.json", {evil: {evil: {"value": 1.0, "low": 1.0, "high": 1.0}}})
    bad = [row("chat", evil, 3.0, predicted=3.0, low=2.0, high=4.0, machine=evil, run=evil, git=evil, profile=evil)]
    page = Page(write_report(finished, bad, KEYS))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.source.count("&lt;script&gt;") >= 8


def test_before_anything_ran_the_page_says_what_to_run(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, [], {}))
    for expected in ("no plan", "not judged", "artifacts/budget/forecast.json", "make run", "dvc repro evaluation"):
        assert expected in page.text, expected
    assert not (tmp_path / "reports" / "plots").exists()


@pytest.mark.parametrize(
    "path",
    [
        "artifacts/budget/forecast.json",
        "artifacts/gate/verdict.json",
        "artifacts/pretrain/curve.csv",
        "artifacts/budget/plan.json",
    ],
)
def test_one_missing_piece_is_named_and_the_rest_is_shown(finished: Path, path: str) -> None:
    (finished / path).unlink()
    page = Page(write_report(finished, rows(), KEYS))
    assert path in page.text and "seconds 10 s 8 s to 12 s 11 s" in page.text


def test_damaged_json_counts_as_missing(finished: Path) -> None:
    put(finished, "artifacts/evaluation/scores.json", '{"rl": ')
    assert "artifacts/evaluation/scores.json" in Page(write_report(finished, rows(), KEYS)).text


def test_a_picture_without_data_does_not_stay_behind(finished: Path) -> None:
    write_report(finished, rows(), KEYS)
    (finished / "artifacts/pretrain/curve.csv").unlink()
    page = Page(write_report(finished, rows(), KEYS))
    assert not (finished / "reports/plots/loss_forecast.svg").exists() and "loss_forecast" not in page.source


def test_numbers_are_those_of_the_output_that_lies_there(finished: Path) -> None:
    """A stage whose parameters were changed and changed back is cached: its newest row is not that of its output."""
    other = [row("sft", "seconds", 9.0, key="other".ljust(64, "0"), run="changed-once", time="2026-01-02T00:00:00")]
    page = Page(write_report(finished, rows() + other, KEYS))
    assert "changed-once" not in page.text and "06 sft seconds 10 s 8 s to 12 s 11 s" in page.text
    moved = Page(write_report(finished, rows() + other, {**KEYS, "sft": "third".ljust(64, "0")}))
    assert "06 sft seconds 10 s 8 s to 12 s 9 s" in moved.text  # nothing of that output: the newest, marked
    assert "06 sft changed-once other" in moved.text and moved.text.count("two cores no") == 1


def test_without_a_ledger_the_metrics_files_are_the_source(finished: Path) -> None:
    put(finished, "metrics/corpus.json", {"measured": {"seconds": 15.0, "kept_bytes": 2.9e7}})
    page = Page(write_report(finished, [], KEYS))
    assert "01 corpus seconds 10 s 8 s to 12 s 15 s +50.0% outside metrics/corpus.json" in page.text
    assert "kept bytes 29 MB" in page.text


def test_a_part_of_the_stages_is_not_compared_with_the_forecast_of_all(finished: Path) -> None:
    page = Page(write_report(finished, rows()[:3], KEYS))
    assert "forecast 2.33 min, 90 %: 2.17 min to 2.5 min; 3 of 14 stages measured" in page.text


def test_an_exact_prediction_that_is_off_by_one_shows_it(finished: Path) -> None:
    page = Page(write_report(finished, [row("pretrain", "checkpoint_bytes", 4097.0)], KEYS))
    assert "checkpoint bytes 4,096 exact 4,097 +0.0% differs" in page.text


def test_the_failed_gate_says_why(finished: Path) -> None:
    put(finished, "work/gate/failed.json", {"error": "gate: arithmetic of rl >= 0.9: 0.7"})
    (finished / "artifacts/gate/verdict.json").unlink()
    page = Page(write_report(finished, rows(), KEYS))
    assert "gate: arithmetic of rl >= 0.9: 0.7" in page.text and "not judged" in page.text


def test_equal_inputs_give_equal_pages(finished: Path) -> None:
    first = write_report(finished, rows(), KEYS).read_bytes()
    assert write_report(finished, rows(), KEYS).read_bytes() == first


def test_the_ledger_and_the_lock_are_read_where_they_are_kept(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks import _keys, _ledger

    asked: list[Path] = []

    def kept(root: Path) -> list[Row]:
        asked.append(root)
        return rows()

    monkeypatch.setattr(_ledger, "collect", lambda root: asked.append(root))
    monkeypatch.setattr(_ledger, "rows", kept)
    entry = {"cmd": "python -m tasks.run chat", "deps": [{"path": "a", "md5": "0" * 32}]}
    put(finished, "dvc.lock", json.dumps({"schema": "2.0", "stages": {"chat": entry}}))
    page = Page(write_report(finished))
    assert asked == [finished, finished] and "run-of-chat-0123456789" in page.text
    assert page.text.count("two cores no") == 1  # chat's lock entry has another K than its row
    assert _keys.keys_from_lock_entry(entry)[0] not in page.text


def test_pictures_take_the_colours_of_the_page(finished: Path) -> None:
    """Black text on the dark page of a reader who prefers dark would be unreadable."""
    pictures = Page(write_report(finished, rows(), KEYS)).source.split("<svg")[1:]
    assert len(pictures) == 5
    for picture in pictures:
        drawing = picture.split("</svg>")[0]
        assert "currentColor" in drawing and not {INK, PAPER, GRID} & set(re.findall("#[0-9a-f]{6}", drawing))
