"""Cleaning a document: each step with its count, what must stay as it is, and that twice equals once."""

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.corpus.records import Document
from tasks.corpus.text.extraction import MAX_HTML_CHARACTERS, TextOptions, clean, looks_like_html, mend_mojibake

ALL = TextOptions(phones=True)
OFF = TextOptions(html="off", **{name: False for name in TextOptions.model_fields if name != "html"})
PAGE = """<?xml version="1.0" encoding="ISO-8859-1"?>
<!-- a comment -->
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN">
<html><head><title>Server</title><style>p {color: red}</style></head><body>
<div id="menu"><ul><li><a href="/">Home</a></li><li><a href="/faq">FAQ</a></li></ul></div>
<div id="content"><h1>Starting the server</h1>
<p>The server reads its configuration once, when it starts, and again on request. A configuration with an error keeps
the old one in use, so that a running site does not go away because of a missing bracket.</p>
<pre>apachectl -k restart\napachectl -t</pre>
<p>Whoever wants to know in advance whether a configuration is valid calls the second command above.</p></div>
<div id="footer">Copyright 2024. <a href="/terms">Terms</a></div><script>track()</script></body></html>"""


def document(text: str) -> Document:
    return Document("files:x", text, "x", "files", "T", "file", "https://x.org/", "MIT")


def cleaned(text: str, options: TextOptions = ALL) -> tuple[str, dict[str, int]]:
    counts: Counter[str] = Counter()
    result = clean(document(text), options, counts)
    assert result._replace(text="") == document("")  # nothing but the text changes
    return result.text, dict(counts)


# --- the steps --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("option", "text", "expected", "counted"),
    [
        ("mojibake", "so naÃ¯ve\nfine naïve", "so naïve\nfine naïve", {"mojibake.documents": 1}),
        ("line_ends", "a\r\nb", "a\nb", {"line_ends.documents": 1}),
        ("controls", "a\u200bb", "ab", {"controls.documents": 1}),
        ("unicode", "e\u0301", "é", {"unicode.documents": 1}),
        ("whitespace", "a \nb\n", "a\nb", {"whitespace.documents": 1}),
        ("emails", "a@b.de, c@d.de", "<EMAIL>, <EMAIL>", {"email.documents": 1, "email.replacements": 2}),
        ("ip_addresses", "66.249.64.13", "<IP>", {"ip.documents": 1, "ip.replacements": 1}),
        ("phones", "+49 30 1234567", "<PHONE>", {"phone.documents": 1, "phone.replacements": 1}),
        ("keys", "AKIAIOSFODNN7EXAMPLE", "<KEY>", {"key.documents": 1, "key.replacements": 1}),
    ],
)
def test_each_switch_does_its_step_and_counts_it(
    option: str, text: str, expected: str, counted: dict[str, int]
) -> None:
    assert cleaned(text, OFF.model_copy(update={option: True})) == (expected, counted)
    assert cleaned(text, ALL.model_copy(update={option: False})) == (text, {})
    assert cleaned(text) == (expected, counted)


def test_counts_add_up_over_documents() -> None:
    counts: Counter[str] = Counter()
    for text in ("a@b.de", "plain", "c@d.de e@f.de\r\n"):
        clean(document(text), ALL, counts)
    assert counts == {
        "email.documents": 2,
        "email.replacements": 3,
        "line_ends.documents": 1,
        "whitespace.documents": 1,
    }


@given(st.text())
def test_with_everything_off_no_byte_changes(text: str) -> None:
    assert cleaned(text, OFF) == (text, {})
    assert cleaned(PAGE + text, OFF) == (PAGE + text, {})


# Characters and pieces that could bring the steps to undo each other.
pieces = st.one_of(
    st.text(max_size=5),
    st.sampled_from(
        [
            "Ã",
            "©",
            "Ã ",
            "â\x80\x99",
            "€",
            "\u200b",
            "\u0338",
            "\u0301",
            "e",
            " ",
            "\r",
            "\x85",
            "\n",
            "\xa0",
            "&lt;",
            "&amp;",
            "<html>",
            "<!doctype html>",
            "<p>",
            "</html>",
            "a@b.de",
            "66.249.64.13",
            "&#160;",
            "AKIA" + "B2" * 8,
            "@",
            "x",
        ]
    ),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(pieces, max_size=12).map("".join), st.sampled_from(["", "<html>", "<!doctype html>"]))
def test_cleaning_twice_equals_cleaning_once(text: str, head: str) -> None:
    once = clean(document(head + text), ALL, Counter())
    counts: Counter[str] = Counter()
    assert clean(once, ALL, counts) == once
    assert not counts
    once.text.encode("utf-8")


# --- HTML -------------------------------------------------------------------------------------------------------------
def test_a_page_becomes_its_main_text() -> None:
    text, counts = cleaned(PAGE)
    assert "The server reads its configuration once" in text and "apachectl -k restart\napachectl -t" in text
    for boilerplate in ("FAQ", "Copyright", "track()", "color", "<"):
        assert boilerplate not in text
    assert counts == {"html.documents": 1}


def test_a_page_without_main_text_falls_back_to_all_of_its_text() -> None:
    assert cleaned("<html><body><script>x()</script><b>&lt;Hi&gt; &amp; bye</b></body></html>") == (
        "<Hi> & bye",
        {"html.documents": 1, "html.fallback.documents": 1},
    )
    text, counts = cleaned("<html><head><title>only</title></head><body></body></html>")
    assert text == "" and counts["html.empty.documents"] == 1


def test_only_documents_that_begin_as_a_page_are_taken_for_one() -> None:
    for page in (PAGE, "\ufeff \n<HTML lang=en>", "<!DocType HTML>", "<!-- x --><!-- y -->\n<html>"):
        assert looks_like_html(page)
    tutorial = "# Your first page\n\n```html\n<!doctype html>\n<html><body>Hello</body></html>\n```"
    for text in (tutorial, "---\nname: HTML\n---\n" + PAGE, "<htmlx>", "<p>fragment</p>", " " * 2_000 + "<html>", ""):
        assert not looks_like_html(text)
        assert cleaned(text, TextOptions(whitespace=False)) == (text, {})


def test_a_page_over_the_limit_is_left_and_counted() -> None:
    text = "<html>" + "<p>word</p>" * (MAX_HTML_CHARACTERS // 11)
    assert cleaned(text) == (text, {"html.too_large.documents": 1})


def test_a_page_decoded_as_latin_1_is_decoded_again_in_the_charset_it_names() -> None:
    body = "<p>아파치 웹서버의 설정파일은 서버가 시작할 때 한 번 읽는다. 설정이 틀리면 이전 설정을 계속 쓴다.</p>" * 3
    page = f'<html><head><meta charset="euc-kr"></head><body>{body}</body></html>'
    damaged = page.encode("euc-kr").decode("latin-1")
    text, counts = cleaned(damaged)
    assert "아파치 웹서버의 설정파일은" in text
    assert counts["charset.documents"] == 1
    assert "charset.documents" not in cleaned(page)[1]
    assert "아파치" not in cleaned(damaged, ALL.model_copy(update={"mojibake": False}))[0]


@pytest.mark.parametrize(
    "body", ["<div>" * 200_000, "<ul><li>" * 60_000, "<" * 500_000, "<p>a<b>" * 30_000, "<!--" * 100_000]
)
def test_a_hostile_page_ends_in_text_and_in_seconds(body: str) -> None:
    start = time.process_time()
    text, counts = cleaned("<html><body>" + body)
    assert time.process_time() - start < 5
    assert counts["html.documents"] == 1 and isinstance(text, str)


# --- mojibake ---------------------------------------------------------------------------------------------------------
GOOD = [
    "Tất cả mọi người sinh ra đều được tự do; “Việt Nam” – độc lập… 100 €",
    "Türkçe: İstanbul'da şimşek, çığ, ğ ve ı; “tırnak”, 5 °C, ¼ ölçü",
    "Größe über Maß: „äöü“, »ÄÖÜ«, Straße – § 5 Abs. 2, 20 €, 3 µm, 2²",
    "모든 인간은 태어날 때부터 자유로우며 “존엄”과 권리에 있어 동등하다.",
    "L’été à Noël : « ça va ? » — œuvre, cœur, n° 5, À bientôt",
    "Все люди рождаются «свободными» и равными — ещё №1… В Риме. Ёлка",
    "👩‍👩‍👧‍👦 ❤️ 🇩🇪 → ✓ ½ × ² ± ∞ ≤ √2 ∑ ∫",
    "├── src\n│   └── main.py\n└── test  # ─ ═ ╔ ╗ ▓",
    "x = {'ключ': 'значение', 'naïve': \"café\"}  # ¬a ∨ b; £5 ¥9; ‘q’",
    "Ελληνικά: Όλοι οι άνθρωποι γεννιούνται ελεύθεροι. Ångström, Øre, Ð, Þ",
    "SÃO PAULO, AÇÃO, CORAÇÃO, Ândrea Ân, POSIÇÃO? NÃO",
]


@pytest.mark.parametrize("text", GOOD)
def test_good_text_is_not_harmed(text: str) -> None:
    assert mend_mojibake(text) == text


@pytest.mark.parametrize("encoding", ["latin-1", "sloppy-windows-1252"])
@pytest.mark.parametrize("text", [GOOD[0], GOOD[2], GOOD[3], GOOD[5], "It’s “déjà vu” – naïve"])
def test_utf8_decoded_as_another_encoding_is_mended_line_by_line(text: str, encoding: str) -> None:
    import ftfy  # noqa: F401 - registers the sloppy encodings

    damaged = text.encode("utf-8").decode(encoding)
    assert damaged != text
    assert mend_mojibake(f"good ä\n{damaged}\n{text}") == f"good ä\n{text}\n{text}"


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=0x80, max_codepoint=0x3000, codec="utf-8"), min_size=1, max_size=20))
def test_the_fast_test_misses_nothing_that_ftfy_mends_completely(text: str) -> None:
    """Damaged text that ftfy restores exactly is restored here as well: the shortcut costs no repair."""
    from ftfy import fix_encoding

    damaged = text.replace("\n", "").encode("utf-8").decode("latin-1")
    if "\n" not in damaged and fix_encoding(damaged) == text:
        assert mend_mojibake(damaged) == text
