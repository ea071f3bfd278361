"""Our model configuration as a Hugging Face config.json, and back."""

from typing import Any

from model.gpt import GPTConfig
from model.tokenizer import Tokenizer

MODEL_TYPE = "nanochat"


def to_hf(config: GPTConfig, tokenizer: Tokenizer, dtype: str) -> dict[str, Any]:
    """Every field of NanoChatConfig: several of its defaults describe another model. `dtype` is that of the file.

    ValueError for a research model.
    """
    refuse_extras(config, "the model")
    end = tokenizer.special_id("<|assistant_end|>")
    return {
        "architectures": ["NanoChatForCausalLM"],
        "model_type": MODEL_TYPE,
        "dtype": dtype,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "max_position_embeddings": config.sequence_length,
        "hidden_act": "relu2",
        "rms_norm_eps": config.rms_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "final_logit_softcapping": config.logit_softcap,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": end,
        "pad_token_id": tokenizer.special_id("<|output_end|>"),
        "use_cache": True,
        "initializer_range": 0.02,
    }


def refuse_extras(config: GPTConfig, where: str) -> None:
    """ValueError if the model has anything that NanoChatForCausalLM does not compute."""
    if config.research is not None:
        raise ValueError(
            f"{where} is a research model: {', '.join(config.research.extras())} have no place in NanoChatForCausalLM, "
            f"the class that transformers and vLLM load; allowed: models without extras; next: set "
            f"architecture.research: false and train again, or end the pipeline before the export with `dvc repro gate`"
        )


_FIXED = {"hidden_act": "relu2", "attention_bias": False, "tie_word_embeddings": False}


def from_hf(content: dict[str, Any], where: str) -> GPTConfig:
    """GPTConfig of a config.json; ValueError when it describes another architecture."""
    if content.get("model_type") != MODEL_TYPE:
        raise ValueError(
            f"{where}: model_type is {content.get('model_type')!r}; allowed: {MODEL_TYPE!r}; next: use a folder "
            f"written by the export stage"
        )
    rope = content.get("rope_parameters") or {}
    wrong = [
        f"{key}={content.get(key)!r} (allowed: {value!r})" for key, value in _FIXED.items() if content.get(key) != value
    ]
    if rope.get("rope_type", "default") != "default":
        wrong.append(f"rope_type={rope['rope_type']!r} (allowed: 'default')")
    if wrong:
        raise ValueError(f"{where}: {'; '.join(wrong)}; next: use a folder written by the export stage")
    try:
        return GPTConfig(
            vocab_size=content["vocab_size"],
            n_layers=content["num_hidden_layers"],
            d_model=content["hidden_size"],
            n_heads=content["num_attention_heads"],
            n_kv_heads=content["num_key_value_heads"],
            mlp_width=content["intermediate_size"],
            sequence_length=content["max_position_embeddings"],
            rope_theta=float(rope.get("rope_theta", 10000.0)),
            rms_eps=float(content["rms_norm_eps"]),
            logit_softcap=float(content["final_logit_softcapping"]),
        )
    except KeyError as missing:
        raise ValueError(
            f"{where}: field {missing} is missing; next: use a folder written by the export stage"
        ) from None
