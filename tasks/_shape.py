"""The numbers of pipeline_math for a model of ours."""

from typing import TYPE_CHECKING

from pipeline_math.model_flops_vram import ModelShape

if TYPE_CHECKING:
    from model.gpt import GPTConfig


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
