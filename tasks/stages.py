"""Names and numbers of the stages. A stage's name is spelled here and nowhere else in Python."""

from enum import StrEnum


class Stage(StrEnum):
    """One unit of the pipeline: a DVC stage, a Prefect task, a params section, a folder under artifacts/."""

    BUDGET = "budget"
    CORPUS = "corpus"
    TOKENIZER = "tokenizer"
    SHARDS = "shards"
    ARCHITECTURE = "architecture"
    PRETRAIN = "pretrain"
    MIDTRAIN = "midtrain"
    SFT = "sft"
    RL = "rl"
    EVALUATION = "evaluation"
    GATE = "gate"
    EXPORT = "export"
    INFERENCE = "inference"
    CHAT = "chat"


NUMBER = {  # for people; never part of an identifier
    Stage.BUDGET: "00",
    Stage.CORPUS: "01",
    Stage.TOKENIZER: "02",
    Stage.SHARDS: "03",
    Stage.ARCHITECTURE: "04",
    Stage.PRETRAIN: "05",
    Stage.MIDTRAIN: "05b",
    Stage.SFT: "06",
    Stage.RL: "06b",
    Stage.EVALUATION: "07",
    Stage.GATE: "07b",
    Stage.EXPORT: "08",
    Stage.INFERENCE: "09",
    Stage.CHAT: "10",
}

COMPUTE_BOUND = frozenset(  # these share one device and must not disturb each other's measurements
    {
        Stage.PRETRAIN,
        Stage.MIDTRAIN,
        Stage.SFT,
        Stage.RL,
        Stage.EVALUATION,
        Stage.INFERENCE,
        Stage.CHAT,
    }
)
