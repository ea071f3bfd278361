"""Rollouts as batches: what the model says now, weighted by how much better than average it was.

A source of batches for model/train_loop.py whose `next` generates. With reward r of a reply and the mean of its group,
every token the model chose has the weight r - mean; forced tokens, prompts and padding have 0. The loop's loss
sum(weight * -ln p) / count is then REINFORCE with a group baseline (no division by the standard deviation).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.batches import Batch
from model.chat_format import render_prompt
from tasks.benchmarks.arithmetic import Problem

if TYPE_CHECKING:
    from model.engine.forward import Work
    from model.engine.row import Completion
    from model.gpt import GPT
    from model.tokenizer import Tokenizer


@dataclass(frozen=True)
class RolloutSizes:
    """How much is generated per step, and how."""

    prompts: int
    samples_per_prompt: int
    max_tokens: int
    temperature: float
    top_k: int | None


class RolloutBatches:
    """Generates one batch per step with the weights as they are. Resumable: everything follows from step and seed."""

    prefetchable = False
    """The next batch needs the weights after this step."""

    def __init__(
        self,
        model: "GPT",
        tokenizer: "Tokenizer",
        sizes: RolloutSizes,
        seed: int,
        problem: Callable[[int, int], Problem],
        reward: Callable[[Problem, str], float],
    ) -> None:
        self.model, self.tokenizer, self.sizes, self.seed = model, tokenizer, sizes, seed
        self.problem, self.reward = problem, reward
        self.step = 0
        self.history: list[dict[str, float]] = []
        """Per step: mean reward, share of groups whose rewards differ, tokens the model chose."""

    def next(self) -> Batch:
        """The rollouts of one step as a batch of prompts * samples_per_prompt rows."""
        from model.engine.engine import Engine
        from model.engine.sampling import Sampling

        sizes = self.sizes
        problems = [self.problem(self.step, number) for number in range(sizes.prompts)]
        prompts = [render_prompt(self.tokenizer, [{"role": "user", "content": p.question}]) for p in problems]
        first_seed = (self.seed * 1_000_003 + self.step) * sizes.prompts
        samplings = [
            Sampling(sizes.temperature, sizes.top_k, seed=first_seed + number, max_tokens=sizes.max_tokens)
            for number in range(sizes.prompts)
        ]
        engine = Engine.from_model(self.model, self.tokenizer)
        replies = engine.generate_batch(prompts, samplings, n=sizes.samples_per_prompt)
        rewards = [
            [self.reward(problem, reply.text) for reply in group]
            for problem, group in zip(problems, replies, strict=True)
        ]
        self._record(rewards, replies, engine.forward.work)
        self.step += 1
        pad = self.tokenizer.special_id("<|output_end|>")
        return to_batch(prompts, replies, [advantages(group) for group in rewards], pad)

    def _record(self, rewards: list[list[float]], replies: "Sequence[Sequence[Completion]]", work: "Work") -> None:
        values = [reward for group in rewards for reward in group]
        chosen = sum(reply.forced_mask.count(False) for group in replies for reply in group)
        useful = sum(len(set(group)) > 1 for group in rewards) / len(rewards)
        self.history.append(
            {
                "step": self.step + 1,
                "reward": sum(values) / len(values),
                "useful_groups": useful,
                "tokens": chosen,
                "decode_steps": work.decode_steps,
                "decoded_tokens": work.decoded_tokens,
            }
        )

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "seed": self.seed, "history": list(self.history)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """ValueError when the state belongs to another seed."""
        if state["seed"] != self.seed:
            raise ValueError(
                f"saved rollouts have seed={state['seed']}, this run has seed={self.seed}; next: remove the saved state"
            )
        self.step, self.history = int(state["step"]), [dict(row) for row in state["history"]]


def advantages(rewards: Sequence[float]) -> list[float]:
    """Reward minus the mean of the group; exactly 0 when all are equal."""
    mean = sum(rewards) / len(rewards)
    return [0.0 if len(set(rewards)) == 1 else reward - mean for reward in rewards]


def to_batch(
    prompts: Sequence[list[int]],
    replies: "Sequence[Sequence[Completion]]",
    advantage: Sequence[Sequence[float]],
    pad_id: int,
) -> Batch:
    """One row per reply: prompt, reply, padding. The weight of a target is its reply's advantage where the model chose
    the token, else 0."""
    import torch

    rows = [
        (prompt + reply.ids, [0.0] * len(prompt) + [0.0 if f else value for f in reply.forced_mask])
        for prompt, group, values in zip(prompts, replies, advantage, strict=True)
        for reply, value in zip(group, values, strict=True)
    ]
    longest = max(len(ids) for ids, _ in rows)
    ids_BT = torch.tensor([ids + [pad_id] * (longest - len(ids)) for ids, _ in rows])
    weights_BT = torch.tensor([weights + [0.0] * (longest - len(weights)) for _, weights in rows])
    return Batch(ids_BT[:, :-1].contiguous(), ids_BT[:, 1:].contiguous(), weights_BT[:, 1:].contiguous())
