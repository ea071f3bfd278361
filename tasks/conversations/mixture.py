"""The mixture of a training stage: which kinds of conversations, how much of each. Parameters only."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tasks._params import StageParams

Kind = Literal["arithmetic", "documentation", "spelling", "smalltalk", "system_role", "dialogue", "jsonl"]


class Part(StageParams):
    """One kind of conversation in a mixture: either a share of the token budget or a number of conversations."""

    kind: Kind
    weight: Annotated[float, Field(gt=0)] | None = None
    """Share of `conversation_tokens`, relative to the other weights."""
    count: Annotated[int, Field(ge=0)] | None = None
    """Number of conversations, on top of the token budget."""
    glob: str | None = None
    """Files below data/chat; for kind jsonl only, for example "*.jsonl" or "support/*.jsonl.gz"."""
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of unreadable lines of a jsonl part that is tolerated (they are counted and sampled); more fails."""

    @model_validator(mode="after")
    def says_how_much_and_from_where(self) -> "Part":
        if (self.weight is None) == (self.count is None):
            raise ValueError(f"part of kind {self.kind}: set exactly one of weight and count")
        if (self.kind == "jsonl") != (self.glob is not None):
            raise ValueError(f"part of kind {self.kind}: glob is needed for kind jsonl and allowed for no other")
        return self

    @property
    def name(self) -> str:
        """The part in reports: its kind, and the glob where there is one."""
        return f"jsonl {self.glob}" if self.glob else self.kind


class Mixture(StageParams):
    """What conversations a training stage sees."""

    parts: Annotated[tuple[Part, ...], Field(min_length=1)] = (
        Part(kind="arithmetic", weight=0.50),
        Part(kind="documentation", weight=0.20),
        Part(kind="dialogue", weight=0.15),
        Part(kind="smalltalk", weight=0.05),
        Part(kind="spelling", weight=0.05),
        Part(kind="system_role", weight=0.05),
    )
    """Kinds of conversations with their shares; the defaults need no data but the corpus."""
    conversation_tokens: Annotated[int, Field(ge=0)] = 600_000
    """Tokens that the parts with a weight share; parts with a count come on top."""
    seed: int = 0

    @model_validator(mode="after")
    def parts_differ(self) -> "Mixture":
        names = [part.name for part in self.parts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"mixture.parts names {', '.join(twice)} more than once; next: merge these parts")
        return self

    def tokens_of(self, part: Part) -> int:
        """Token budget of a part with a weight."""
        total = sum(other.weight for other in self.parts if other.weight is not None)
        return round(self.conversation_tokens * part.weight / total) if part.weight is not None else 0
