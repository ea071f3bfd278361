"""Is an exported folder the model that was trained? transformers is asked, not our own code."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from model.gpt import GPTConfig
    from model.tokenizer import Tokenizer

LARGEST_DIFFERENCE = 1e-5
"""Between logits, which the softcap keeps within +-15. Both sides take the same attention kernel and the same order of
operations: another one is off by up to 1.4e-5 on a trained model, by rounding alone."""
GREEDY_TOKENS = 24
PROMPTS = ("What is 12 + 30?", "What does argparse do?", "Hello!", "Zwölf, 漢字 and 🙂", "x")


@dataclass(frozen=True)
class Equivalence:
    """What the comparison found."""

    max_logit_difference: float
    greedy_tokens: int
    """Tokens our engine chose greedily and transformers chooses too."""
    problem: str = ""
    """Empty when the two agree."""


def compare_with_transformers(
    folder: Path, weights: "dict[str, torch.Tensor]", config: "GPTConfig", tokenizer: "Tokenizer"
) -> Equivalence:
    """Load the folder with transformers in fp32; compare with model.gpt.GPT and with our engine on the same weights."""
    import torch

    from model.gpt import GPT

    own = GPT(config, attention="sdpa", compute_dtype="float32").eval()
    own.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    loaded, problem = _load(folder)
    if problem:
        return Equivalence(float("inf"), 0, problem)
    difference, greedy = 0.0, 0
    for ids, generated in _sequences(weights, config, tokenizer):
        whole = torch.tensor([ids + generated])
        with torch.inference_mode():
            expected = own.logits(own(whole))[0]
            found = loaded(whole).logits[0]
        difference = max(difference, float((expected - found).abs().max()))
        if difference > LARGEST_DIFFERENCE:
            allowed = f"at most {LARGEST_DIFFERENCE:.0e}"
            return Equivalence(
                difference, greedy, f"logits differ by {difference:.2e} ({allowed}) on {len(whole[0])} tokens"
            )
        chosen = found[len(ids) - 1 : -1]
        best, ours = chosen.max(-1), chosen.gather(1, torch.tensor(generated)[:, None])[:, 0]
        # A tie within the rounding of both may fall either way; anything larger is a different model.
        wrong = (best.values - ours > 2 * LARGEST_DIFFERENCE).nonzero()
        if len(wrong):
            place = int(wrong[0])
            return Equivalence(
                difference,
                greedy,
                f"greedy token {place} is {generated[place]} here and {int(best.indices[place])} in transformers",
            )
        greedy += len(generated)
    return Equivalence(difference, greedy)


def _load(folder: Path) -> "tuple[torch.nn.Module, str]":
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    result: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True, local_files_only=True
    )
    loaded, info = result
    odd = [f"{kind}: {sorted(names)[:3]}" for kind, names in info.items() if names and kind.endswith("_keys")]
    return loaded.eval(), f"transformers reports {'; '.join(odd)}" if odd else ""


def _sequences(
    weights: "dict[str, torch.Tensor]", config: "GPTConfig", tokenizer: "Tokenizer"
) -> list[tuple[list[int], list[int]]]:
    """(prompt, greedy continuation up to the first token the calculator forced), and one row of the full context."""
    import torch

    from model.chat_format import render_prompt
    from model.engine.engine import Engine
    from model.engine.sampling import Sampling

    engine = Engine(weights, config, tokenizer, dtype="float32")
    prompts = [render_prompt(tokenizer, [{"role": "user", "content": text}]) for text in PROMPTS]
    prompts = [ids for ids in prompts if len(ids) < engine.context]
    sequences = []
    for ids, (reply,) in zip(prompts, engine.generate_batch(prompts, Sampling(max_tokens=GREEDY_TOKENS)), strict=True):
        free = reply.forced_mask.index(True) if True in reply.forced_mask else len(reply.ids)
        sequences.append((ids, reply.ids[:free]))
    row = torch.randint(
        0, config.vocab_size, (engine.context - 1,), generator=torch.Generator().manual_seed(0)
    ).tolist()
    return [*sequences, (row, engine.generate(row, Sampling(max_tokens=1))[0].ids)]
