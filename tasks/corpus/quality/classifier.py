"""Quality classifier: a small linear model of good and bad examples, one score per document, a cut per domain.

Reads    the user's examples below data/quality (quality_examples.py)
Model    hashed word 1-2-grams (scikit-learn's HashingVectorizer) -> logistic regression -> P(good), 0..1
Promise  neither the order of files and documents nor batches matter; the figures are of held-out examples, of which no
         copy was trained on; a classifier no better than guessing is refused; no pickle is written or read
Limits   it learns what tells the examples apart: their language, topic and layout count as quality. A document is
         judged by its first CHARACTERS_READ characters. Scripts without spaces give few features. Near copies among
         the examples flatter the figures. Another processor may change the last digits of a training
"""

import hashlib
import json
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline_math.statistics import wilson_interval
from tasks._errors import StageError
from tasks._files import write_json
from tasks._params import StageParams

FEATURES = 2**18
CHARACTERS_READ = 5_000
"""Of a document; more costs time and moves few scores."""
HELD_OUT_SHARE = 0.2
SCHEME = {"version": 1, "features": FEATURES, "characters": CHARACTERS_READ, "ngrams": "word 1-2, \\w+, lower case"}
"""What coefficients mean; a saved model of another scheme is refused."""
_BATCH_DOCUMENTS = 2_000

Share = Annotated[float, Field(gt=0, le=1)]


class Classifier(StageParams):
    """Cut by a score that was learnt from examples below data/quality."""

    good: str
    """Pattern of the files with good examples, such as "good/**/*.txt"."""
    bad: str
    """Pattern of the files with bad examples."""
    keep_fraction: Share | None = None
    """The best share of each domain's documents is kept, so that no domain is judged by the style of another."""
    min_score: Annotated[float, Field(ge=0, le=1)] | None = None
    """Least score, the same for every domain; with `keep_fraction` too, both must hold. 0 scores and cuts nothing."""
    min_examples: Annotated[int, Field(ge=10)] = 50
    """Least different examples of each class."""
    min_auc: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Least area under the ROC curve on held-out examples; 0.5 is guessing."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Chooses the held-out examples."""

    @model_validator(mode="after")
    def _cuts_somewhere(self) -> "Classifier":
        if self.keep_fraction is None and self.min_score is None:
            raise ValueError(
                "classifier.keep_fraction and classifier.min_score are both unset; set one (0 scores only)"
            )
        return self


class Model(NamedTuple):
    """Coefficients and what is known about them."""

    coefficients: NDArray[np.float32]
    intercept: float
    figures: dict[str, Any]
    """good, bad (examples trained on), held_out, auc, accuracy, accuracy_low, accuracy_high (95 %)."""

    def digest(self) -> str:
        """Identity of the scores this model gives: cached scores belong to it."""
        parts = (
            json.dumps(SCHEME, sort_keys=True).encode(),
            self.coefficients.tobytes(),
            repr(self.intercept).encode(),
        )
        return hashlib.sha256(b"\0".join(parts)).hexdigest()


class Cut(NamedTuple):
    """Who stays."""

    keep: NDArray[np.bool_]
    thresholds: dict[str, float]
    """Domain -> score of the last document kept, or `min_score` where that is higher."""


def train(
    good_texts: Sequence[str],
    bad_texts: Sequence[str],
    *,
    min_examples: int = 50,
    min_auc: float = 0.6,
    seed: int = 0,
) -> Model:
    """A model of different examples, a fifth of each class held out by hash. StageError: too few, or no better than
    guessing. An example in both classes is left out of both and counted.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    both = set(good_texts) & set(bad_texts)
    classes = [_by_hash(set(texts) - both, seed) for texts in (bad_texts, good_texts)]
    for name, texts in zip(("bad", "good"), classes, strict=True):
        if len(texts) < min_examples:
            raise StageError(
                f"corpus.classifier: {len(texts)} different {name} examples ({len(both)} more are in both classes); "
                f"allowed: at least classifier.min_examples={min_examples}; next: add files for classifier.{name}"
            )
    held = [math.ceil(HELD_OUT_SHARE * len(texts)) for texts in classes]
    trained_on = [text for texts, count in zip(classes, held, strict=True) for text in texts[count:]]
    labels = np.repeat([0, 1], [len(texts) - count for texts, count in zip(classes, held, strict=True)])
    # Weak regularisation, as rows have unit length and words are rare. Classes of unequal size must not shift the
    # score. lbfgs draws no random numbers.
    regression = LogisticRegression(C=10.0, class_weight="balanced", max_iter=300, solver="lbfgs")
    regression.fit(_features(trained_on), labels)
    model = Model(regression.coef_[0].astype(np.float32), float(regression.intercept_[0]), {})
    scores = score(model, [text for texts, count in zip(classes, held, strict=True) for text in texts[:count]])
    truth = np.repeat([0, 1], held)
    auc = float(roc_auc_score(truth, scores))
    right = int(((scores >= 0.5) == truth).sum())
    low, high = wilson_interval(right, len(truth))
    if auc < min_auc:
        raise StageError(
            f"corpus.classifier: area under the ROC curve {auc:.3f} on {len(truth)} held-out examples (guessing: 0.5); "
            f"allowed: at least classifier.min_auc={min_auc}; next: give more or clearer examples, lower min_auc, or "
            f"remove corpus.classifier"
        )
    figures = {
        "good": int(labels.sum()),
        "bad": int(len(labels) - labels.sum()),
        "in_both_classes": len(both),
        "held_out": len(truth),
        "auc": round(auc, 6),
        "accuracy": round(right / len(truth), 6),
        "accuracy_low": round(low, 6),
        "accuracy_high": round(high, 6),
    }
    return model._replace(figures=figures)


def score(model: Model, texts: Sequence[str]) -> NDArray[np.float32]:
    """P(good) of every text; one without words has the score of the intercept. Memory is bounded by batches."""
    found = np.empty(len(texts), np.float32)
    for start in range(0, len(texts), _BATCH_DOCUMENTS):
        batch = texts[start : start + _BATCH_DOCUMENTS]
        logits = _features(batch) @ model.coefficients.astype(np.float64) + model.intercept
        found[start : start + len(batch)] = 1.0 / (1.0 + np.exp(-logits))
    return found


def cut(
    scores: NDArray[np.float32],
    domain_codes: NDArray[np.integer],
    names: Sequence[str],
    id_hashes: NDArray[np.uint64],
    params: Classifier,
) -> Cut:
    """The documents to keep: in every domain the best ceil(keep_fraction * n), ties by smaller hash of the id."""
    scores, codes = np.asarray(scores, np.float32), np.asarray(domain_codes, np.int64)
    keep = np.ones(len(scores), bool)
    thresholds: dict[str, float] = {}
    order = np.lexsort((np.asarray(id_hashes, np.uint64), -scores, codes))
    starts = np.searchsorted(codes[order], np.arange(len(names) + 1))
    for code, name in enumerate(names):
        own = order[starts[code] : starts[code + 1]]
        bounds = [] if params.min_score is None else [params.min_score]
        if params.keep_fraction is not None and len(own):
            count = math.ceil(params.keep_fraction * len(own) - 1e-9)  # 0.07 * 100 is a little above 7
            keep[own[count:]] = False
            bounds.append(float(scores[own[count - 1]]))
        if bounds:
            thresholds[name] = max(bounds)
    if params.min_score is not None:
        keep &= scores >= np.float32(params.min_score)
    return Cut(keep, thresholds)


def save(model: Model, folder: Path) -> None:
    """classifier.npz (coefficients) and classifier.json (the rest), each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".classifier.{os.getpid()}.npz"
    np.savez_compressed(temporary, coefficients=model.coefficients)
    os.replace(temporary, folder / "classifier.npz")
    content = {"scheme": SCHEME, "intercept": model.intercept, "figures": model.figures, "digest": model.digest()}
    write_json(folder / "classifier.json", content)


def load(folder: Path) -> Model:
    """What `save` wrote; StageError for anything else, pickled arrays among it."""
    try:
        content = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
        with np.load(folder / "classifier.npz", allow_pickle=False) as arrays:
            model = Model(arrays["coefficients"], float(content["intercept"]), content["figures"])
        if content["scheme"] != SCHEME:
            raise ValueError(f"scheme {content['scheme']}, allowed {SCHEME}")
        if model.coefficients.dtype != np.float32 or model.coefficients.shape != (FEATURES,):
            raise ValueError(f"coefficients {model.coefficients.dtype} {model.coefficients.shape}")
        if model.digest() != content["digest"]:
            raise ValueError("the two files do not belong together")
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise StageError(f"corpus.classifier: {folder} holds no classifier: {error}; next: train it again") from None
    return model


def _by_hash(texts: set[str], seed: int) -> list[str]:
    return sorted(texts, key=lambda text: hashlib.sha256(f"{seed}:{text}".encode(errors="surrogatepass")).digest())


def _features(texts: Sequence[str]) -> Any:
    """Sparse rows of unit length, one per text."""
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(n_features=FEATURES, ngram_range=(1, 2), token_pattern=r"\w+")
    return vectorizer.transform(text[:CHARACTERS_READ] for text in texts)
