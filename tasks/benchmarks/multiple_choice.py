"""Multiple choice about documented objects: which of four descriptions belongs to a name?

The answer scored highest by log-likelihood per character counts; nothing is generated, so base models take part too.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.chat_format import render_prompt
from tasks.benchmarks.documentation import DocumentedObject, ask
from tasks.benchmarks.normal import normal

if TYPE_CHECKING:
    from model.gpt import GPT
    from model.tokenizer import Tokenizer

CHOICES = 4


@dataclass(frozen=True)
class Item:
    """A question about one object: `choices[gold]` is its own description, the others belong to other objects."""

    object: DocumentedObject
    choices: tuple[str, ...]
    gold: int


def make_items(
    objects: Sequence[DocumentedObject], train_text: str, count: int, seed: int
) -> tuple[list[Item], list[str]]:
    """Up to `count` items about held-out objects, and the names left out because the training text gives them away.

    `train_text` is the normal form of all training text: an object whose description occurs in it word for word (copied
    or inherited documentation) would test memory, not understanding.
    """
    order = random.Random(f"{seed}/multiple_choice")
    candidates = order.sample(list(objects), len(objects))
    items: list[Item] = []
    left_out: list[str] = []
    for candidate in candidates:
        if len(items) >= count:
            break
        others = [o for o in objects if o.question_kind == candidate.question_kind and o.name != candidate.name]
        if len(others) < CHOICES - 1:
            continue
        if normal(candidate.description) in train_text:
            left_out.append(candidate.name)
            continue
        wrong = order.sample(others, CHOICES - 1)
        choices = [candidate.description, *(other.description for other in wrong)]
        order.shuffle(choices)
        items.append(Item(candidate, tuple(choices), choices.index(candidate.description)))
    return items, left_out


def requests(item: Item, tokenizer: "Tokenizer", chat: bool) -> list[tuple[list[int], list[int]]]:
    """(context ids, continuation ids) of every choice: a chat turn, or the plain form of documents."""
    if chat:
        question = ask(item.object, "held_out", 0)
        context = render_prompt(tokenizer, [{"role": "user", "content": question}])
        return [(context, tokenizer.encode(choice)) for choice in item.choices]
    # Context and continuation are encoded together and cut after the context's length, as lm-evaluation-harness does.
    text = f"{item.object.heading}\n\n"
    cut = len(tokenizer.encode(text))
    together = [tokenizer.encode(text + choice) for choice in item.choices]
    return [([tokenizer.bos_id, *ids[:cut]], ids[cut:]) for ids in together]


def log_likelihoods(
    model: "GPT", pairs: Sequence[tuple[list[int], list[int]]], rows_per_batch: int = 32
) -> list[float]:
    """Sum of log-probabilities (nats) of each continuation after its context, in the given order.

    Pairs longer than the model's context lose the start of their context, never the continuation.
    """
    import torch

    device: Any = next(model.parameters()).device
    results = [0.0] * len(pairs)
    order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
    room = model.config.sequence_length + 1
    for start in range(0, len(order), rows_per_batch):
        numbers = order[start : start + rows_per_batch]
        rows = [(pairs[i][0] + pairs[i][1])[-room:] for i in numbers]
        longest = max(len(row) for row in rows)
        padded = torch.tensor([row + [row[0]] * (longest - len(row)) for row in rows], device=device)
        with torch.no_grad():
            hidden_BTD = model(padded[:, :-1])
            for place, i in enumerate(numbers):
                length, own = len(rows[place]), len(pairs[i][1])
                # Position t predicts token t + 1: the last `own` tokens of the row are predicted one place earlier.
                logits = model.logits(hidden_BTD[place, length - own - 1 : length - 1])
                targets = padded[place, length - own : length]
                results[i] = float(torch.log_softmax(logits.float(), -1).gather(1, targets[:, None]).sum())
    return results


def choose(item: Item, values: Sequence[float]) -> int:
    """The choice with the highest log-likelihood per character."""
    scores = [value / len(choice) for value, choice in zip(values, item.choices, strict=True)]
    return scores.index(max(scores))
