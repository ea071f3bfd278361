"""Section `corpus` of params.yaml."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from tasks._params import StageParams
from tasks.corpus.mixing import Mixing
from tasks.corpus.quality.blocklist import Blocklist
from tasks.corpus.quality.classifier import Classifier
from tasks.corpus.quality.guard import Guard
from tasks.corpus.quality.rules import Quality, resolve
from tasks.corpus.sources.portions import PythonDocs, Source
from tasks.corpus.text.extraction import TextOptions

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class Duplicates(StageParams):
    """Which repetitions between documents are removed."""

    exact: bool = True
    """Documents with the same words in the same order (case and punctuation aside)."""
    min_jaccard: Annotated[float, Field(gt=0, le=1)] | None = 0.7
    """Share of common five-word shingles from which two documents are near duplicates; None: they all stay."""
    max_paragraph_documents: Positive | None = None
    """A paragraph found in more kept documents than this stays in one of them only; None: paragraphs stay."""
    min_paragraph_characters: Positive = 200
    """Shorter paragraphs are never removed."""
    earlier: str | None = None
    """Folder below data/earlier with the index of earlier crawls: what they kept is left out here; None: no index."""
    write_index: bool = False
    """Write artifacts/corpus/index, about half a kilobyte per kept document, for the crawls to come."""


class Decontamination(StageParams):
    """Documents that share text with the benchmarks in data/benchmarks are left out."""

    min_shared_ngrams: Positive = 1
    """13-grams of words that a document must share with one benchmark item."""


class Params(StageParams):
    """What is read, what is done to it, and what is kept."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)] = (PythonDocs(kind="python_docs"),)
    """Where text comes from. Of duplicates, those of the source named first stay."""
    max_record_bytes: Positive = 64 * 2**20
    """Largest single record of a file source; a longer one counts as bad."""
    max_bad_fraction: Fraction = 0.01
    """Share of unusable records per source above which the stage fails."""
    text: TextOptions = TextOptions()
    """How text is extracted and cleaned, and which personal data is replaced."""
    text_by_domain: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Options that differ in one domain: {domain: {option: value}}."""
    blocklist: Blocklist = Blocklist()
    """Addresses whose documents are left out, where a document has one."""
    quality: Quality = Quality()
    """Rules for every domain."""
    quality_by_domain: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Rules that differ in one domain: {domain: {threshold: value, recipes: [...]}}; null switches a rule off."""
    classifier: Classifier | None = None
    """A linear model of what you call good and bad text; None: not used."""
    duplicates: Duplicates = Duplicates()
    """Exact copies, near copies, repeated paragraphs."""
    decontamination: Decontamination | None = Decontamination()
    """Overlap with benchmarks; None: not looked for."""
    guard: Guard = Guard()
    """Rules that remove nothing or nearly everything stop the stage."""
    max_dropped_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9
    """The stage fails when rules and duplicates together (not mixing or the caps) drop more than this share."""
    mixing: Mixing | None = None
    """Shares of the domains in what is kept; None: whatever there is."""
    max_bytes: Positive | None = None
    """UTF-8 bytes of kept text; documents are taken in hash order of their ids."""
    max_documents: Positive | None = None
    """Number of kept documents, taken in hash order of their ids."""

    @model_validator(mode="after")
    def _options_of_domains_are_valid(self) -> "Params":
        self.text_options()
        resolve(self.quality, self.quality_by_domain)
        return self

    def text_options(self) -> dict[str, TextOptions]:
        """Complete options per domain that has its own; "*" for the rest."""
        base = self.text.model_dump()
        own = {
            domain: TextOptions.model_validate({**base, **options})
            for domain, options in sorted(self.text_by_domain.items())
        }
        return {"*": self.text, **own}
