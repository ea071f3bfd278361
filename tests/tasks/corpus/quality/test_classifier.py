"""The quality classifier: training, scoring, cutting, files."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks._errors import StageError
from tasks._params import validate
from tasks.corpus.quality import classifier
from tasks.corpus.quality.classifier import FEATURES, Classifier, Model, cut, load, save, score, train
from tasks.corpus.quality.examples import read_examples

PROSE = [f"prose{number}" for number in range(16)]
SPAM = [f"spam{number}" for number in range(14)]


def _texts(words: list[str], count: int, seed: int, foreign: list[str] | None = None) -> list[str]:
    """Texts mostly of `words`, with a fifth of `foreign` so that the classes overlap."""
    source = random.Random(seed)
    return [" ".join(source.choices(words, k=24) + source.choices(foreign or words, k=6)) for _ in range(count)]


GOOD, BAD = _texts(PROSE, 120, 0, SPAM), _texts(SPAM, 80, 1, PROSE)


@pytest.fixture(scope="module")
def model() -> Model:
    return train(GOOD, BAD)


def test_good_and_bad_are_told_apart_and_the_figures_say_so(model: Model) -> None:
    assert model.figures == {
        "good": 96,
        "bad": 64,
        "in_both_classes": 0,
        "held_out": 40,
        "auc": 1.0,
        "accuracy": 1.0,
        "accuracy_low": pytest.approx(0.9124, abs=1e-4),  # Wilson: n / (n + z^2)
        "accuracy_high": 1.0,
    }
    assert score(model, _texts(PROSE, 20, 5, SPAM)).min() > 0.5 > score(model, _texts(SPAM, 20, 6, PROSE)).max()


def test_scores_equal_the_library_on_the_same_features(model: Model) -> None:
    from sklearn.feature_extraction.text import HashingVectorizer

    rows = HashingVectorizer(n_features=FEATURES, ngram_range=(1, 2), token_pattern=r"\w+").transform(GOOD)
    logits = rows @ model.coefficients.astype(np.float64) + model.intercept
    np.testing.assert_allclose(score(model, GOOD), 1 / (1 + np.exp(-logits)), rtol=1e-6)


def test_order_of_examples_and_repeated_examples_do_not_matter(model: Model) -> None:
    good, bad = GOOD + GOOD[:30], list(reversed(BAD))
    random.Random(3).shuffle(good)
    again = train(good, bad)
    assert again.digest() == model.digest()
    assert again.figures == model.figures
    assert train(GOOD, BAD, seed=1).digest() != model.digest()


def test_batches_do_not_matter(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*GOOD, "", "!!!", *BAD]
    together = score(model, texts)
    monkeypatch.setattr(classifier, "_BATCH_DOCUMENTS", 7)
    assert np.array_equal(score(model, texts), together)
    assert np.array_equal(score(model, texts[::-1]), together[::-1])
    assert score(model, []).shape == (0,)


def test_only_the_beginning_of_a_document_is_read(model: Model) -> None:
    start = (" ".join(PROSE) + " ") * 100
    assert len(start) > classifier.CHARACTERS_READ
    assert score(model, [start]) == score(model, [start + " ".join(SPAM) * 100])


def test_no_copy_of_a_held_out_example_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    features = classifier._features
    monkeypatch.setattr(classifier, "_features", lambda texts: seen.append(list(texts)) or features(texts))
    train(GOOD * 2, BAD * 3)
    trained_on, held_out = seen
    assert len(held_out) == 40
    assert not set(trained_on) & set(held_out)
    assert set(trained_on) | set(held_out) == set(GOOD) | set(BAD)


def test_examples_in_both_classes_are_left_out_of_both() -> None:
    assert train(GOOD + BAD[:5], BAD).figures["in_both_classes"] == 5
    with pytest.raises(StageError, match=r"0 different bad examples \(80 more are in both classes\)"):
        train(GOOD + BAD, BAD)


def test_too_few_different_examples_are_refused() -> None:
    with pytest.raises(StageError, match=r"49 different good examples.*classifier.min_examples=50.*classifier.good"):
        train(GOOD[:49] * 5, BAD)
    assert train(GOOD[:50], BAD[:50]).figures["held_out"] == 20


def test_a_classifier_that_guesses_is_refused_unless_allowed() -> None:
    same = _texts(PROSE, 600, 0)
    with pytest.raises(StageError, match=r"ROC curve 0\.\d+ on 120 held-out.*classifier.min_auc=0.6"):
        train(same[:300], same[300:])
    assert train(same[:300], same[300:], min_auc=0).figures["auc"] == pytest.approx(0.5, abs=0.17)  # three errors


def _params(**values: Any) -> Classifier:
    return Classifier(good="g", bad="b", **values)


scored = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.integers(0, 2**64 - 1)),
    max_size=60,
    unique_by=lambda document: document[2],
)


@settings(max_examples=100, deadline=None)
@given(scored, st.sampled_from([0.07, 0.1, 0.5, 0.7, 1.0]), st.sampled_from([None, 0.0, 0.5]), st.randoms())
def test_the_best_share_of_each_domain_is_kept(documents: Any, share: float, least: float | None, source: Any) -> None:
    def run(rows: Any) -> tuple[dict[int, bool], dict[str, float]]:
        codes, scores, hashes = ([row[place] for row in rows] for place in range(3))
        params = _params(keep_fraction=share, min_score=least)
        found = cut(np.array(scores, np.float32), np.array(codes, int), "abc", np.array(hashes, np.uint64), params)
        return dict(zip(hashes, found.keep.tolist(), strict=True)), found.thresholds

    kept, thresholds = run(documents)
    shuffled = list(documents)
    source.shuffle(shuffled)
    assert run(shuffled) == (kept, thresholds)
    for code, name in enumerate("abc"):
        own = sorted((d for d in documents if d[0] == code), key=lambda d: (-d[1], d[2]))
        count = next(k for k in range(len(own) + 1) if k * 100 >= round(share * 100) * len(own))
        chosen = [d for d in own[:count] if least is None or d[1] >= least]
        assert [d[2] for d in own if kept[d[2]]] == [d[2] for d in chosen]
        if own:
            assert thresholds[name] == max(own[count - 1][1], least or 0)


def test_a_least_score_alone_holds_for_every_domain_and_the_bound_itself_is_kept() -> None:
    scores = np.array([0.3, 0.2999, 0.9, 0.1], np.float32)
    found = cut(scores, np.array([0, 0, 1, 1]), ["a", "b"], np.arange(4, dtype=np.uint64), _params(min_score=0.3))
    assert found.keep.tolist() == [True, False, True, False]
    assert found.thresholds == {"a": 0.3, "b": 0.3}


def test_saved_models_score_alike_and_the_files_are_reproducible(model: Model, tmp_path: Path) -> None:
    save(model, tmp_path / "a")
    save(model, tmp_path / "b")
    found = load(tmp_path / "a")
    assert found.digest() == model.digest()
    assert found.figures == model.figures
    assert np.array_equal(score(found, GOOD), score(model, GOOD))
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "ab"]
    assert files[0] == files[1]
    assert sorted(files[0]) == ["classifier.json", "classifier.npz"]


def test_pickles_and_foreign_files_are_refused(model: Model, tmp_path: Path) -> None:
    save(model, tmp_path)
    written, whole = (tmp_path / "classifier.json").read_text(), (tmp_path / "classifier.npz").read_bytes()

    def refused(words: str) -> None:
        with pytest.raises(StageError, match=rf"holds no classifier: .*{words}.*next: train it again"):
            load(tmp_path)

    np.savez(tmp_path / "classifier.npz", coefficients=np.array([{}], dtype=object))
    refused("allow_pickle=False")
    np.savez(tmp_path / "classifier.npz", coefficients=np.zeros(FEATURES, np.float32))
    refused("do not belong together")
    np.savez(tmp_path / "classifier.npz", coefficients=np.zeros(5, np.float32))
    refused(r"\(5,\)")
    for broken in (b"", b"PK broken", whole[: len(whole) // 2], whole.replace(whole[500:600], bytes(100))):
        (tmp_path / "classifier.npz").write_bytes(broken)
        refused("")
    save(model, tmp_path)
    (tmp_path / "classifier.json").write_text(json.dumps(json.loads(written) | {"scheme": {"version": 0}}))
    refused("scheme")
    (tmp_path / "classifier.json").write_text("[]")
    refused("")
    (tmp_path / "classifier.json").unlink()
    refused("No such file")


def test_examples_are_read_from_text_markdown_and_json_lines(tmp_path: Path) -> None:
    (tmp_path / "good/deep").mkdir(parents=True)
    (tmp_path / "good/a.txt").write_text("one\n\ntext", encoding="utf-8")
    (tmp_path / "good/deep/b.md").write_text("# größer", encoding="utf-8")
    (tmp_path / "good/c.jsonl").write_text('{"text": "x\\u2028y"}\n\n{"text": "z", "id": 1}\n{"text": " "}\n')
    (tmp_path / "good/d.txt").write_text("\n")
    assert read_examples(tmp_path, "good/**/*.*") == ["one\n\ntext", "x\u2028y", "z", "# größer"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": 1}\n', r"a.jsonl:2: found .*string in `text`"),
        ("a.jsonl", b"{", r"a.jsonl:1: found '{'"),
        ("a.jsonl", b'["text"]', r"a.jsonl:1: found"),
        ("a.txt", b"ok \xff", "not UTF-8 at byte 3"),
        ("a.pdf", b"", r"1 file\(s\) such as 'a.pdf'.*allowed: .txt, .md, .jsonl"),
        (".hidden.txt", b"x", "matches no file"),
    ],
)
def test_examples_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StageError, match=words):
        read_examples(tmp_path, "*")


@pytest.mark.parametrize("glob", ["../*.txt", "/etc/*"])
def test_patterns_that_lead_elsewhere_are_refused(tmp_path: Path, glob: str) -> None:
    with pytest.raises(StageError, match="leads outside data/quality"):
        read_examples(tmp_path, glob)


def test_links_to_other_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "quality").mkdir()
    (tmp_path / "secret.txt").write_text("x")
    (tmp_path / "quality/a.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(StageError, match=r"'a.txt' is a link to a place outside data/quality"):
        read_examples(tmp_path / "quality", "*.txt")


def test_parameters_must_cut_somewhere() -> None:
    files = {"good": "g", "bad": "b"}
    with pytest.raises(StageError, match="both unset; set one"):
        validate(Classifier, files, "params.yaml")
    for values in ({"keep_fraction": 0}, {"keep_fraction": 1.1}, {"min_score": 2}, {"min_score": 0, "min_examples": 2}):
        with pytest.raises(StageError, match="invalid parameter"):
            validate(Classifier, files | values, "params.yaml")
    assert validate(Classifier, files | {"min_score": 0}, "params.yaml").min_score == 0
