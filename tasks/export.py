"""export: the selected checkpoint as a Hugging Face folder that transformers and vLLM load without any code of ours.

Reads    artifacts/{pretrain,midtrain,sft,rl}/checkpoint, artifacts/gate/verdict.json, artifacts/tokenizer,
         artifacts/evaluation/scores.json, artifacts/corpus/report.json
Writes   artifacts/export/: model.safetensors, config.json, generation_config.json, tokenizer.json,
         tokenizer_config.json, chat_template.jinja, README.md (the model card), scores.json
Promise  transformers computes the same logits (max |difference| <= 1e-5 in fp32) and the same greedy tokens, or the
         stage fails; every tensor has a place; equal inputs give equal bytes
Limits   the architecture of NanoChatForCausalLM only, research models are refused; in bf16 the stored weights are
         compared, not those of training
"""

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipeline_math import export_cost
from tasks._context import StageContext
from tasks._errors import StageError
from tasks._files import size_bytes, write_json, write_text
from tasks._model_card import model_card
from tasks._params import StageParams
from tasks.stages import Stage

if TYPE_CHECKING:
    import torch

    from model.gpt import GPTConfig
    from model.tokenizer import Tokenizer

CHECKPOINTS = (Stage.PRETRAIN, Stage.MIDTRAIN, Stage.SFT, Stage.RL)
_STORED = {"float32": "fp32", "bfloat16": "bf16"}  # our names -> those of pipeline_math


class Params(StageParams):
    """Parameters of the export."""

    checkpoint: Literal["gate", "pretrain", "midtrain", "sft", "rl"] = "gate"
    """Whose checkpoint to export; gate: the one the gate selected."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Format of the stored weights."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Default sampling temperature written to generation_config.json; servers use it when a request names none."""
    top_k: int = Field(default=50, ge=1)
    """Default top-k, likewise."""


def select_checkpoint(params: Params, verdict: dict[str, Any]) -> Stage:
    """The stage whose checkpoint is exported; StageError when the gate names none that exists."""
    if params.checkpoint != "gate":
        return Stage(params.checkpoint)
    selected = verdict.get("selected")
    if selected not in {str(stage) for stage in CHECKPOINTS}:
        raise StageError(
            f"artifacts/gate/verdict.json selects {selected!r}; allowed: {', '.join(CHECKPOINTS)}; "
            f"next: run `dvc repro gate` again or set export.checkpoint"
        )
    return Stage(selected)


def read_checkpoint(
    folder: Path, tokenizer_file: Path, dtype: "torch.dtype"
) -> "tuple[dict[str, torch.Tensor], GPTConfig, Tokenizer]":
    """Weights in the stored format, config, tokenizer.

    StageError for a research model, an unmapped tensor or a foreign tokenizer.
    """
    from model.engine.folder import read_folder
    from model.engine.forward import check_names
    from model.engine.hf_config import refuse_extras

    try:
        weights, config, tokenizer = read_folder(folder, tokenizer_file)
        refuse_extras(config, "it")
        check_names(weights, config)
    except ValueError as problem:
        raise StageError(f"{folder} cannot be exported: {problem}") from None
    trained_with = json.loads((folder / "meta.json").read_text(encoding="utf-8")).get("tokenizer_sha256")
    if trained_with != tokenizer.sha256:
        raise StageError(
            f"{folder} was trained with the tokenizer {str(trained_with)[:12]}, artifacts/tokenizer holds "
            f"{tokenizer.sha256[:12]}; next: `dvc repro export` rebuilds what is stale"
        )
    if config.vocab_size != tokenizer.vocab_size:
        raise StageError(
            f"{folder} has vocab_size={config.vocab_size}, the tokenizer {tokenizer.vocab_size}; they must be equal, "
            f"or padding ids could be generated; next: `dvc repro architecture`"
        )
    return {name: tensor.to(dtype) for name, tensor in sorted(weights.items())}, config, tokenizer


def write_folder(
    folder: Path,
    weights: "dict[str, torch.Tensor]",
    config: "GPTConfig",
    tokenizer: "Tokenizer",
    tokenizer_file: Path,
    params: Params,
) -> None:
    """Everything but the model card. The folder must exist."""
    from safetensors.torch import save_file

    from model.chat_format import CHAT_TEMPLATE
    from model.engine.hf_config import to_hf

    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    hf_config = to_hf(config, tokenizer, params.dtype)
    write_json(folder / "config.json", hf_config)
    write_json(folder / "generation_config.json", generation_config(hf_config, tokenizer, params))
    write_text(folder / "tokenizer.json", tokenizer_file.read_text(encoding="utf-8"))
    write_json(folder / "tokenizer_config.json", tokenizer_config(config))
    write_text(folder / "chat_template.jinja", CHAT_TEMPLATE)


def generation_config(hf_config: dict[str, Any], tokenizer: "Tokenizer", params: Params) -> dict[str, Any]:
    """Where a reply ends, and the default sampling (vLLM and our server read it too)."""
    from model.engine.row import END_TOKENS

    sampling = {"do_sample": True, "temperature": params.temperature, "top_k": params.top_k}
    return {
        "bos_token_id": hf_config["bos_token_id"],
        "eos_token_id": [tokenizer.special_id(name) for name in END_TOKENS],
        "pad_token_id": hf_config["pad_token_id"],
        **(sampling if params.temperature > 0 else {"do_sample": False}),
    }


def tokenizer_config(config: "GPTConfig") -> dict[str, Any]:
    """How transformers shall use tokenizer.json: no token is added by itself, spaces stay as they are."""
    from model.tokenizer import SPECIAL_TOKENS

    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|assistant_end|>",
        "pad_token": "<|output_end|>",
        "additional_special_tokens": [name for name in SPECIAL_TOKENS if name not in ("<|bos|>", "<|assistant_end|>")],
        "model_max_length": config.sequence_length,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }


def header_bytes(file: Path) -> int:
    """Length of the JSON header of a safetensors file."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
    return int(length)


def run(ctx: StageContext) -> None:
    """Select, write, describe, verify."""
    import torch

    from tasks._equivalence import compare_with_transformers

    params = ctx.params
    assert isinstance(params, Params)
    verdict = json.loads(ctx.input("artifacts/gate/verdict.json").read_text(encoding="utf-8"))
    selected = select_checkpoint(params, verdict)
    metas = {
        str(stage): json.loads((ctx.input(f"artifacts/{stage}/checkpoint") / "meta.json").read_text(encoding="utf-8"))
        for stage in CHECKPOINTS
    }
    tokenizer_file = ctx.input("artifacts/tokenizer") / "tokenizer.json"
    dtype = getattr(torch, params.dtype)
    weights, config, tokenizer = read_checkpoint(ctx.input(f"artifacts/{selected}/checkpoint"), tokenizer_file, dtype)

    write_folder(ctx.out, weights, config, tokenizer, tokenizer_file, params)
    scores = json.loads(ctx.input("artifacts/evaluation/scores.json").read_text(encoding="utf-8"))
    corpus = json.loads(ctx.input("artifacts/corpus/report.json").read_text(encoding="utf-8"))
    parameters = sum(tensor.numel() for tensor in weights.values())
    card = model_card(
        selected=str(selected), key=ctx.key, metas=metas, scores=scores, corpus=corpus, verdict=verdict,
        config=config, parameters=parameters, dtype=params.dtype,
    )  # fmt: skip
    write_text(ctx.out / "README.md", card)
    write_json(ctx.out / "scores.json", scores.get(str(selected), {}))  # what the next candidate is compared with

    file = ctx.out / "model.safetensors"
    predicted = export_cost.safetensors_file_bytes(parameters, _STORED[params.dtype], header_bytes(file))
    ctx.predict("export_bytes", predicted, predicted, predicted)
    ctx.count(parameters=parameters)
    ctx.measure("export_bytes", file.stat().st_size)
    result = compare_with_transformers(ctx.out, weights, config, tokenizer)
    if result.problem:
        raise StageError(
            f"the exported model is not the trained one: {result.problem}; nothing was published; next: compare "
            f"model/gpt.py and model/engine/hf_config.py with transformers' NanoChatForCausalLM"
        )
    ctx.report(
        selected=str(selected),
        parameters=parameters,
        folder_bytes=size_bytes(ctx.out),
        max_logit_difference=result.max_logit_difference,
        greedy_tokens_compared=result.greedy_tokens,
    )
    ctx.note(
        f"exported {selected} ({parameters:,} parameters, {params.dtype}); transformers: max |logit difference| "
        f"{result.max_logit_difference:.1e}, {result.greedy_tokens} greedy tokens equal"
    )
