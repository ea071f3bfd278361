"""`python -m pipeline_math.documents [00 05 ...]`: render the documents of all or of the named steps."""

import sys

from pipeline_math.documents.number import DocumentError
from pipeline_math.documents.render import DOCUMENTS, write


def main(numbers: list[str]) -> int:
    """Write the files; 2 for an unknown step or a document that does not hold together."""
    known = {document.number: document for document in DOCUMENTS}
    unknown = [number for number in numbers if number not in known]
    if unknown:
        print(f"no step {', '.join(unknown)}; allowed: {', '.join(known)}", file=sys.stderr)
        return 2
    try:
        for path in write(documents=tuple(known[number] for number in numbers or known)):
            print(f"wrote {path.parent.name}/{path.name}")
    except DocumentError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
