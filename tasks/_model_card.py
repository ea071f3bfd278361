"""The model card of an export. Deterministic: it holds no time, path or host."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.gpt import GPTConfig


def model_card(
    *,
    selected: str,
    key: str,
    metas: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, Mapping[str, Mapping[str, float]]],
    corpus: Mapping[str, Any],
    verdict: Mapping[str, Any],
    config: "GPTConfig",
    parameters: int,
    dtype: str,
) -> str:
    """Markdown with a YAML head that model hubs read. `metas` and `scores` are per training stage."""
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [nanochat, zero2chat]",
        "---",
        "# A chat model built by zero2chat",
        "",
        f"Checkpoint `{selected}`, {parameters:,} parameters stored in {dtype}. Key K: `{key or 'none'}`.",
        "",
        "| layers | width | heads | key-value heads | context (tokens) | vocabulary |",
        "|---|---|---|---|---|---|",
        f"| {config.n_layers} | {config.d_model} | {config.n_heads} | {config.n_kv_heads} | {config.sequence_length} | "
        f"{config.vocab_size} |",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")',
        'chat = [{"role": "user", "content": "What is 12 + 30?"}]',
        "options = {'add_generation_prompt': True, 'return_tensors': 'pt', 'return_dict': True}",
        "inputs = tokenizer.apply_chat_template(chat, **options)",
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))",
        "```",
        "",
        "vLLM loads the folder as it is; name the format (`--dtype float32`), its default for fp32 files is bf16.",
        "Only this project's own engine runs the calculator between `<|python_start|>` and `<|python_end|>`.",
        "",
        "## Scores",
        "",
        *_scores(scores.get(selected, {})),
        "",
        f"Gate: {'passed' if verdict.get('passed') else 'not passed'}.",
        "",
        "## Lineage",
        "",
        "| stage | optimizer steps | tokens | key K |",
        "|---|---|---|---|",
        *[
            f"| {stage}{' (this model)' if stage == selected else ''} | {meta.get('step', '')} | "
            f"{meta.get('tokens', '')} | `{str(meta.get('key', ''))[:16]}` |"
            for stage, meta in metas.items()
        ],
        "",
        f"Tokenizer sha256: `{metas[selected].get('tokenizer_sha256', '')}`.",
        "",
        "## Data",
        "",
        *_data(corpus),
        "",
        "## Limits",
        "",
        "A small model trained for the exercise: it makes mistakes, invents facts and knows only the sources above. "
        "Do not rely on what it says.",
        "",
    ]
    return "\n".join(lines)


def _scores(benchmarks: Mapping[str, Mapping[str, float]]) -> list[str]:
    if not benchmarks:
        return ["This checkpoint was not evaluated."]
    rows = ["| benchmark | value | 95 % interval | items |", "|---|---|---|---|"]
    for name, score in sorted(benchmarks.items()):
        interval = f"{_number(score.get('low'))} to {_number(score.get('high'))}"
        rows.append(f"| {name} | {_number(score.get('value'))} | {interval} | {score.get('n', '')} |")
    return rows


def _data(corpus: Mapping[str, Any]) -> list[str]:
    rows = ["| domain | documents kept | of | bytes kept |", "|---|---|---|---|"]
    for name, domain in sorted(corpus["domains"].items()):
        rows.append(f"| {name} | {domain['kept']:,} | {domain['in']:,} | {domain['kept_bytes']:,} |")
    return rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
