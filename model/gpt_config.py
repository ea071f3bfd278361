"""The shape of the network as a value that survives a JSON file."""

import dataclasses
import json
from pathlib import Path

from model.attention import PATHS
from model.precision import REQUESTS
from model.research import GATE_CHANNELS, ResearchConfig


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """Shape of the network. ValueError names the field that cannot work."""

    vocab_size: int
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    mlp_width: int
    sequence_length: int
    """Longest row in tokens (positions)."""
    rope_theta: float = 10000.0
    rms_eps: float = 1e-6
    logit_softcap: float = 15.0
    attention: str = "auto"
    """How training computes attention: one of model.attention.PATHS. No result but rounding depends on it."""
    compute_dtype: str = "auto"
    """Format of the products in training: one of model.precision's names."""
    research: ResearchConfig | None = None
    """Extras that NanoChatForCausalLM does not have; None is exactly that architecture, the only one exported."""

    def __post_init__(self) -> None:
        for name, allowed in (("attention", PATHS), ("compute_dtype", REQUESTS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"model config: {name}={getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        for field in dataclasses.fields(self):
            if field.name in ("attention", "compute_dtype", "research"):
                continue
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
                raise ValueError(f"model config: {field.name}={value!r}; allowed: a number above 0")
            if field.type in (int, "int") and not isinstance(value, int):
                raise ValueError(f"model config: {field.name}={value!r}; allowed: a whole number")
        if self.d_model % self.n_heads or self.head_dim % 2:
            raise ValueError(
                f"model config: d_model={self.d_model} over n_heads={self.n_heads} must give an even head dim; "
                f"next: make d_model a multiple of {2 * self.n_heads}"
            )
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"model config: n_kv_heads={self.n_kv_heads} must divide n_heads={self.n_heads}; "
                f"allowed: {', '.join(str(n) for n in range(1, self.n_heads + 1) if self.n_heads % n == 0)}"
            )
        self._check_research()

    def _check_research(self) -> None:
        if isinstance(self.research, dict):  # as JSON holds it
            object.__setattr__(self, "research", ResearchConfig.from_values(self.research))
        if self.research is not None and not isinstance(self.research, ResearchConfig):
            raise ValueError(f"model config: research={self.research!r}; allowed: null or an object with its fields")
        if self.research is not None and not self.research.extras():  # every extra off: the default architecture
            object.__setattr__(self, "research", None)
        if self.research is not None and self.research.value_embeddings and self.d_model < GATE_CHANNELS:
            raise ValueError(
                f"model config: d_model={self.d_model}; allowed: {GATE_CHANNELS} or more with value embeddings, whose "
                f"gates read the first {GATE_CHANNELS} channels"
            )

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_heads

    @classmethod
    def from_json(cls, path: Path) -> "GPTConfig":
        """Read a config file; ValueError if a field is missing, unknown or impossible."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: not a readable model config ({error})") from None
        if not isinstance(values, dict):
            raise ValueError(
                f"{path}: holds a {type(values).__name__}; allowed: an object with the fields of GPTConfig"
            )
        known = {f.name: f.default is dataclasses.MISSING for f in dataclasses.fields(cls)}
        unknown, missing = (
            sorted(set(values) - set(known)),
            sorted(k for k, need in known.items() if need and k not in values),
        )
        if unknown or missing:
            raise ValueError(f"{path}: unknown fields {unknown}, missing fields {missing}; allowed: {', '.join(known)}")
        return cls(**values)

    def to_json(self, path: Path) -> None:
        """Write the fields; `research` only where it is set, so that the file of a default model says what it did."""
        values = dataclasses.asdict(self)
        if self.research is None:
            del values["research"]
        path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
