"""The numbers of pipeline_math for a model of ours."""

import dataclasses
from typing import TYPE_CHECKING

from pipeline_math.model_flops_vram import ModelShape
from pipeline_math.research_layout import ResearchExtras

if TYPE_CHECKING:
    from model.gpt_config import GPTConfig


def shape_of_config(config: "GPTConfig", tokens_per_row: int | None = None) -> ModelShape:
    """Shape with rows of `tokens_per_row` tokens; None takes the model's longest."""
    return ModelShape(
        config.n_layers,
        config.d_model,
        config.n_heads,
        config.n_kv_heads,
        config.mlp_width,
        config.vocab_size,
        tokens_per_row or config.sequence_length,
    )


def extras_of_config(config: "GPTConfig") -> ResearchExtras | None:
    """The extras of a research model as pipeline_math counts them; None for the default architecture."""
    if config.research is None:
        return None
    return ResearchExtras(**dataclasses.asdict(config.research), sequence_length=config.sequence_length)


def config_of_shape(shape: ModelShape) -> "GPTConfig":
    """The default architecture of that shape, for rows of up to its `tokens_per_row`."""
    from model.gpt_config import GPTConfig  # torch: not for those who only count

    return GPTConfig(
        shape.vocab_size,
        shape.n_layers,
        shape.d_model,
        shape.n_heads,
        shape.n_kv_heads,
        shape.mlp_width,
        shape.tokens_per_row,
    )
