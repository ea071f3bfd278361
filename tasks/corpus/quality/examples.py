"""The user's examples of good and bad text for the quality classifier, below data/quality.

.txt and .md hold one document each, .jsonl one per line in `text`. They are few and chosen by hand, so everything is
read at once and one bad line is an error. Texts of white space alone are passed over.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from tasks._errors import StageError

SUFFIXES = (".txt", ".md", ".jsonl")


def read_examples(root: Path, glob: str) -> list[str]:
    """Texts of all files below `root` that match. StageError names file and line of what cannot be used."""
    if Path(glob).is_absolute() or ".." in Path(glob).parts:
        raise StageError(
            f"corpus.classifier: pattern {glob!r} leads outside data/quality; allowed: a relative pattern such as "
            f"'good/**/*.txt'; next: put or link the files there"
        )
    paths = sorted(path for path in root.glob(glob) if path.is_file() and not path.name.startswith("."))
    foreign = [path for path in paths if path.suffix not in SUFFIXES]
    if foreign or not paths:
        found = f"{len(foreign)} file(s) such as {foreign[0].name!r}" if foreign else "no file"
        raise StageError(
            f"corpus.classifier: pattern {glob!r} matches {found} in data/quality; allowed: {', '.join(SUFFIXES)}; "
            f"next: correct the pattern or add examples"
        )
    outside = [path for path in paths if not path.resolve().is_relative_to(root.resolve())]
    if outside:
        raise StageError(
            f"corpus.classifier: {outside[0].name!r} is a link to a place outside data/quality; next: copy it there"
        )
    return [text for path in paths for text in _texts(path) if text.strip()]


def _texts(path: Path) -> Iterator[str]:
    try:
        content = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise StageError(f"corpus.classifier: {path}: not UTF-8 at byte {error.start}; next: convert it") from None
    if path.suffix != ".jsonl":
        yield content
        return
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise StageError(
                f"corpus.classifier: {path}:{number}: found {line[:80]!r}; allowed: a JSON object with a string in "
                f"`text`; next: mend the line"
            )
        yield record["text"]
