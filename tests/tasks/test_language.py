"""Language of a text: known passages, the sample that is judged, and that no network is ever needed."""

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks._language import SAMPLE_CHARACTERS, detect, sample

DATA = Path(__file__).parents[3] / "shared" / "data" / "corpus"
PASSAGES = {
    "en": "All human beings are born free and equal in dignity and rights.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "ja": "すべての人間は、生まれながらにして自由であり、尊厳と権利とについて平等である。",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
}


def test_known_passages_with_scores_above_the_published_threshold() -> None:
    languages, scores = detect(list(PASSAGES.values()))
    assert languages == list(PASSAGES)
    assert scores.dtype == np.float32 and (scores >= 0.65).all() and (scores <= 1).all()


def test_texts_without_letters_have_no_language() -> None:
    languages, scores = detect(["", " \n", "12.5 + 3 = 15.5", "😀 → ✓", "\ud800"])
    assert languages == [""] * 5
    assert not scores.any()
    assert [len(part) for part in detect([])] == [0, 0]


def test_each_text_is_judged_alone() -> None:
    texts = [*PASSAGES.values(), "", "x"]
    together = detect(texts)
    alone = [detect([text]) for text in texts]
    assert together[0] == [languages[0] for languages, _ in alone]
    assert together[1].tolist() == [scores[0] for _, scores in alone]


def test_the_sample_is_the_beginning_and_the_middle_on_one_line() -> None:
    assert sample("a\n\n b\tc ") == "a b c"
    short = "x" * 2 * SAMPLE_CHARACTERS
    assert sample(short) == short
    body = "".join(chr(0x4E00 + i) for i in range(3 * SAMPLE_CHARACTERS))
    assert sample(body) == body[:SAMPLE_CHARACTERS] + " " + body[SAMPLE_CHARACTERS : 2 * SAMPLE_CHARACTERS]
    long_title = "Contents 1 2 3 4 " * 40 + PASSAGES["de"] * 200
    assert detect([long_title])[0] == ["de"]


def test_nothing_is_downloaded_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a fresh interpreter without sockets, whose cache and temporary folders must stay empty."""
    program = (
        "import socket\n"
        "def refuse(*_, **__): raise AssertionError('network used')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from tasks._language import detect\n"
        f"assert detect([{PASSAGES['fr']!r}])[0] == ['fr']\n"
    )
    environment = {"FTLANG_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda *_: pytest.fail("network used"))
        assert detect([PASSAGES["en"]])[0] == ["en"]


@pytest.mark.shared_data
def test_real_documents_whose_language_is_known() -> None:
    if not DATA.is_dir():
        pytest.skip(f"no development data at {DATA}")
    import polars as pl

    corpus = pl.read_parquet(DATA / "*.parquet", columns=["text", "domain", "source"])
    for where, language, least in [
        (pl.col("domain") == "legal", "de", 300),
        (pl.col("source").str.contains("fr.react.dev", literal=True), "fr", 100),
        (pl.col("source").str.contains("pages.ko/", literal=True), "ko", 500),
        (pl.col("source").str.contains("pages.ru/", literal=True), "ru", 100),
        (pl.col("domain") == "encyclopedia", "en", 100),
    ]:
        texts = corpus.filter(where)["text"].to_list()
        assert len(texts) >= least
        languages, _ = detect(texts)
        assert languages.count(language) >= 0.95 * len(texts), language
