"""The corpus report: sums that agree, equal bytes for equal reports, a page that shows documents and runs none."""

import copy
import json
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.corpus.report.charts import Axis
from tasks.corpus.report.html import MAX_SHARDS, render_html
from tasks.corpus.report.report import check_sums, render_report
from tasks.corpus.report.tables import HEAT_LEVELS, STAGES, Domains, cell, own_bounds, percent, segments, stage_of
from tests.tasks.corpus.report.made_up_report import DOMAINS, STATISTICS, realistic_report

TEXT = r'<text class="([^"]*)" x="([\d.]+)"( text-anchor="end")? y="([\d.]+)">(.*?)</text>'


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return realistic_report()


@pytest.fixture(scope="module")
def page(report: dict[str, Any]) -> str:
    return render_html(report).replace("<wbr>", "").replace("\N{NO-BREAK SPACE}", " ")


class _Page(HTMLParser):
    """Elements, ids, links and headings of a page; stops at an end tag that closes something else."""

    VOID = ("meta", "path", "wbr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.headings: list[int] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def values(self, name: str) -> list[str]:
        return [value or "" for _, key, value in self.attributes if key == name]


def test_equal_reports_give_equal_files_whatever_the_order_of_their_keys(report, tmp_path: Path) -> None:
    def turned(value: Any) -> Any:
        return {key: turned(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    render_report(tmp_path / "a", report)
    render_report(tmp_path / "b", turned(report))
    render_report(tmp_path / "c", json.loads((tmp_path / "a/report.json").read_text()))
    for name in ("report.json", "report.md", "report.html"):
        first = (tmp_path / "a" / name).read_bytes()
        assert len(first) > 1000
        assert first == (tmp_path / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes(), name


def test_the_json_file_is_the_report(report, tmp_path: Path) -> None:
    render_report(tmp_path, report)
    assert json.loads((tmp_path / "report.json").read_text()) == report


def test_texts_of_documents_are_shown_and_never_become_elements(report, page: str) -> None:
    parsed = _Page(page)
    assert not parsed.open
    assert not {"script", "img", "link", "iframe", "object", "b", "i"} & set(parsed.elements)
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]
    assert "&lt;script&gt;document.title" in page and "머신 러닝은" in page and "التعلم الآلي" in page
    assert parsed.elements["pre"] > 100


def test_a_domain_or_rule_with_markup_in_its_name_stays_text(report) -> None:
    evil = '"><script>x</script>'
    changed = realistic_report(DOMAINS | {evil: 5000})
    changed["rules"][evil] = changed["rules"].pop("max_digit_fraction")
    changed["rules"][evil]["statistic"] = evil
    changed["histograms"][evil] = changed["histograms"].pop("digit_fraction")
    for part in (changed, *changed["domains"].values(), *changed["shards"]):
        counts = part.get("dropped_by_reason", part.get("dropped"))
        if "max_digit_fraction" in counts:
            counts[evil] = counts.pop("max_digit_fraction")
    page = render_html(changed)
    assert "script" not in _Page(page).elements
    assert page.count("&lt;script&gt;x") > 10


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    parsed = _Page(page)
    links = parsed.values("href") + parsed.values("src")
    assert links and all(link.startswith("#") for link in links)
    assert "http" not in page.replace("http-equiv", "")
    assert "@import" not in page and "url(" not in page


def test_contents_lead_to_every_section_and_headings_descend_in_order(page: str) -> None:
    parsed = _Page(page)
    ids = parsed.values("id")
    assert len(ids) == len(set(ids)) == 13
    assert sorted(link[1:] for link in parsed.values("href")) == sorted(ids)
    assert parsed.headings[0] == 1 and parsed.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(parsed.headings))
    assert parsed.elements["svg"] == len(STATISTICS) == page.count('<svg role="img"')


def test_every_count_of_the_funnel_is_on_the_page(report, page: str) -> None:
    table = page[page.index('id="rules"') :]
    for reason, count in report["dropped_by_reason"].items():
        row = table[table.index(f'<th scope="row">{reason}</th>') :].split("</tr>")[0]
        shown = [int(text.replace(",", "")) for text in re.findall(r"<td[^>]*>([\d,]+)", row)]
        by_size = sorted(report["domains"], key=lambda name: -report["domains"][name]["in"])
        assert shown == [count, *(report["domains"][name]["dropped"].get(reason, 0) for name in by_size)]


def test_thresholds_are_drawn_in_with_base_and_own_values(report, page: str) -> None:
    figure = page[page.index("<h3>digit_fraction</h3>") :].split("</figure>")[0]
    assert ">≤ 0.3</text>" in figure and ">≤ 0.5</text>" in figure
    assert "own: cheatsheets ≤ 0.5, specs off" in figure
    assert figure.count('class="own"') == 1
    assert ">off</text>" in figure
    figure = page[page.index("<h3>mean_word_characters</h3>") :].split("</figure>")[0]
    assert ">≥ 3</text>" in figure and ">≤ 10</text>" in figure
    figure = page[page.index("<h3>alphabetic_word_fraction</h3>") :].split("</figure>")[0]
    assert "off (own: books ≥ 0.8)" in figure and figure.count('class="own"') == 1


def test_histograms_show_the_largest_domains_and_the_rest_together(report, page: str) -> None:
    figure = page[page.index("<h3>words</h3>") :].split("</figure>")[0]
    assert re.findall(r'class="name"[^>]*>(?:<title>[^<]*</title>)?([^<]*)<', figure) == [
        "cheatsheets", "tech-docs", "specs", "books", "education", "religious", "code-tutorials", "html-docs",
        "7 others",
    ]  # fmt: skip
    rest = sum(sorted(DOMAINS.values())[:7])
    assert f">{rest:,}</text>" in figure


def test_text_in_pictures_stays_inside_them(page: str) -> None:
    pictures = re.findall(r"<svg.*?</svg>", page)
    assert pictures
    for picture in pictures:
        width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', picture).groups())
        texts = re.findall(
            r'<text class="([^"]*)" x="([\d.]+)"( text-anchor="end")? y="([\d.]+)">(.*?)</text>', picture
        )
        assert len(texts) == picture.count("<text")
        for kind, x, end, y, text in texts:
            drawn = re.sub("<title>.*?</title>", "", text)
            length = 6.3 * len(drawn)
            left = {"name": -length, "count": -length, "tick": -length / 2}.get(kind, -length if end else 0.0)
            assert float(x) + left >= 0 and float(x) + left + length <= width, drawn
            assert 8 <= float(y) <= height - 2


def test_a_large_report_stays_below_two_megabytes() -> None:
    page = render_html(realistic_report(shards=900))
    assert page.count("-0af3") == 900
    assert len(page.encode()) <= 2_000_000


def test_very_many_shards_and_domains_are_cut_in_words() -> None:
    many = realistic_report({f"domain-{n:03d}": 40 + n for n in range(120)}, shards=MAX_SHARDS + 5)
    page = render_html(many)
    assert f"the {MAX_SHARDS:,} that keep the smallest share" in page
    assert '<th scope="row">80 others</th>' in page
    assert len(page.encode()) <= 3_000_000


def test_a_bare_report_has_only_the_sections_there_is_something_for(tmp_path: Path) -> None:
    empty = {
        "records": 0, "unreadable": 0, "unreadable_samples": [], "duplicate_ids": 0,
        "total": {"documents": 0, "kept": 0, "dropped": 0, "bytes": 0, "kept_bytes": 0}, "dropped_by_reason": {},
        "domains": {}, "shards": [], "text": {}, "languages": {}, "rules": {}, "histograms": {}, "clusters": [],
        "samples": {"kept": {}}, "benchmarks": {}, "mixing": None, "classifier": None,
    }  # fmt: skip
    render_report(tmp_path, empty)
    assert _Page((tmp_path / "report.html").read_text()).values("id") == ["funnel"]


def test_markdown_has_the_funnel_and_no_cell_breaks_its_table(report, tmp_path: Path) -> None:
    render_report(tmp_path, report)
    text = (tmp_path / "report.md").read_text()
    for title in ("# Corpus", "## Duplicates", "## Benchmarks", "## Mixing", "## Unreadable records"):
        assert f"\n{title}\n" in f"\n{text}"
    assert "<b>" not in text and "<i>" not in text.replace("`a|b'<i>.jsonl:3`", "")
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 4
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert f"| documents in | {report['total']['documents']:,} |" in text


def test_control_characters_and_broken_names_can_be_written_and_seen(tmp_path: Path) -> None:
    changed = realistic_report({"a": 10})
    changed["unreadable_samples"] = [{"file": "caf\udce9.txt", "line": 1, "reason": "NUL \x00 inside"}]
    render_report(tmp_path, changed)
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "caf?.txt" in text and "NUL ␀ inside" in text


def test_sums_that_agree_pass(report) -> None:
    check_sums(report)


@pytest.mark.parametrize(
    "path",
    [
        ("total", "documents"), ("total", "kept"), ("total", "dropped"), ("dropped_by_reason", "language"),
        ("domains", "books", "in"), ("domains", "books", "kept"), ("domains", "tech-docs", "dropped", "near_duplicate"),
        ("domains", "books", "in_bytes"), ("domains", "books", "kept_bytes"), ("records",), ("unreadable",),
        ("shards", 0, "records"), ("shards", 0, "unreadable"), ("shards", 0, "in"), ("shards", 3, "kept"),
        ("shards", 3, "dropped", "near_duplicate"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("change", [-1, 1])
def test_one_document_too_many_or_too_few_is_found(report, path: tuple, change: int) -> None:
    changed = copy.deepcopy(report)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = place.get(path[-1], 0) + change
    with pytest.raises(AssertionError):
        check_sums(changed)


def test_a_document_dropped_for_different_reasons_in_shard_and_domain_is_found(report) -> None:
    changed = copy.deepcopy(report)
    dropped = changed["shards"][3]["dropped"]
    dropped["near_duplicate"] -= 1
    dropped["exact_duplicate"] = dropped.get("exact_duplicate", 0) + 1
    with pytest.raises(AssertionError, match="shards"):
        check_sums(changed)


@given(st.floats(0, 1e8), st.floats(0, 1e8))
def test_ticks_are_few_round_inside_and_apart(low: float, high: float) -> None:
    low, high = sorted((low, high))
    for edges in ([0.0, 1.0, 1e8], [0.0, high / 50 or 0.02, high or 1.0]):
        axis = Axis(edges, low, high)
        ticks = axis.ticks()
        places = [axis.x(tick) for tick in ticks]
        assert len(ticks) <= 8
        assert all(b - a >= 33.9 for a, b in pairwise(places))
        assert all(axis.low <= tick <= axis.high for tick in ticks)


@given(st.dictionaries(st.text(max_size=4), st.integers(0, 99), max_size=12), st.integers(1, 9))
def test_folding_domains_loses_no_document(sizes: dict[str, int], limit: int) -> None:
    domains = Domains(sizes, limit)
    assert sum(domains.sums(sizes)) == sum(sizes.values())
    assert len(domains.groups) <= limit + 1
    assert sorted(name for _, members in domains.groups for name in members) == sorted(sizes)


@given(st.integers(0, 10**9), st.integers(1, 10**9))
def test_percentages_say_0_and_100_only_of_none_and_all(part: int, whole: int) -> None:
    part = min(part, whole)
    assert (percent(part, whole) == "0.0%") == (part == 0)
    assert (percent(part, whole) == "100.0%") == (part == whole)
    assert (cell(part, whole).heat == 0) == (part == 0) and cell(part, whole).heat <= HEAT_LEVELS


def test_a_rule_of_names_instead_of_numbers_is_shown(report) -> None:
    changed = copy.deepcopy(report)
    rule = {"statistic": None, "is_minimum": False, "by_domain": {"specs": None}, "broken": {"books": 3}}
    changed["rules"]["languages"] = rule | {"threshold": ["en", "de"]}
    row = render_html(changed).split('<th scope="row">languages</th>')[1].split("</tr>")[0]
    assert "<td>en, de</td>" in row and ">3</td>" in row and "specs off" in row


def test_own_bounds_of_very_many_domains_are_counted_and_a_name_from_right_to_left_turns_nothing_around() -> None:
    rule = {"is_minimum": False, "threshold": 1, "by_domain": {"a": 0.5, "ب": None}, "broken": {}}
    assert own_bounds(rule, 2) == "a ≤\N{NO-BREAK SPACE}0.5, \N{FIRST STRONG ISOLATE}ب\N{POP DIRECTIONAL ISOLATE} off"
    assert own_bounds(rule, 1) == "in 2 domains"


def test_rules_that_are_off_everywhere_are_not_shown(report) -> None:
    changed = copy.deepcopy(report)
    changed["rules"]["max_digit_fraction"] |= {"threshold": None, "by_domain": {"specs": None}, "broken": {}}
    assert "<h3>digit_<wbr>fraction</h3>" in render_html(report)
    assert "<h3>digit_<wbr>fraction</h3>" not in render_html(changed)


@pytest.mark.parametrize(
    ("reason", "stage"),
    [
        ("blocked_host", "block list"), ("languages", "language"), ("min_language_score", "language"),
        ("max_words", "quality rules"), ("classifier", "classifier"), ("duplicate_paragraphs", "duplicate paragraphs"),
        ("source_max_bytes", "caps and mixing"), ("kept_max_bytes_or_documents", "caps and mixing"),
    ],
)  # fmt: skip
def test_reasons_belong_to_the_step_that_drops(reason: str, stage: str) -> None:
    assert STAGES[stage_of(reason, {"max_words": {}})][0] == stage


def test_segments_of_a_bar_fill_it_and_keep_unknown_reasons() -> None:
    parts = segments(5, {"language": 2, "max_words": 1, "own_rule": 1, "never_heard_of": 1}, 10, {"own_rule": {}})
    assert [(part["name"], part["value"]) for part in parts] == [
        ("kept", 5), ("language", 2), ("quality rules", 2), ("caps and mixing", 1),
    ]  # fmt: skip
    assert sum(float(part["width"].rstrip("%")) for part in parts) == pytest.approx(100)
