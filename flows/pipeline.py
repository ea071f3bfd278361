"""THE MAP: raw text to a chat reply, top to bottom, one call per stage.

Each line names the stages it waits for. A fresh stage ends as `Cached`; a stale one runs and may be retried; training
stages continue from their last checkpoint. The same edges stand in dvc.yaml (a contract test compares them).
"""

from typing import Any

from prefect import flow
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner

from flows import ROOT
from flows._stage import build
from tasks._runtime import load_runtime
from tasks.stages import Stage


@flow(name="zero2chat", log_prints=True)
def pipeline(force: list[str] | None = None) -> State[Any]:
    """Every stage of the pipeline; `force` names stages to run although they are fresh."""
    built: dict[Stage, PrefectFuture] = {}

    def stage(name: Stage, *upstream: Stage, retries: int = 0) -> None:
        needs = [built[up] for up in upstream]
        built[name] = build(name, *needs, retries=retries, force=frozenset(force or ()))

    # What can be afforded, and the text it will be spent on
    stage(Stage.BUDGET)
    stage(Stage.CORPUS, retries=1)
    stage(Stage.TOKENIZER, Stage.CORPUS)
    stage(Stage.SHARDS, Stage.CORPUS, Stage.TOKENIZER)

    # A model of that size, trained on raw text, then on conversations, then on rewards
    stage(Stage.ARCHITECTURE, Stage.BUDGET, Stage.TOKENIZER)
    stage(Stage.PRETRAIN, Stage.BUDGET, Stage.TOKENIZER, Stage.SHARDS, Stage.ARCHITECTURE, retries=2)
    text = (Stage.CORPUS, Stage.TOKENIZER, Stage.SHARDS)
    stage(Stage.MIDTRAIN, Stage.BUDGET, *text, Stage.PRETRAIN, retries=2)
    stage(Stage.SFT, Stage.BUDGET, *text, Stage.MIDTRAIN, retries=2)
    stage(Stage.RL, Stage.TOKENIZER, Stage.SFT, retries=2)

    # Is it good enough, and better than the one in service?
    checkpoints = (Stage.PRETRAIN, Stage.MIDTRAIN, Stage.SFT, Stage.RL)
    stage(Stage.EVALUATION, *text, *checkpoints, retries=1)
    stage(Stage.GATE, Stage.BUDGET, Stage.EVALUATION)

    # Out into the world
    stage(Stage.EXPORT, Stage.CORPUS, Stage.TOKENIZER, *checkpoints, Stage.EVALUATION, Stage.GATE)
    stage(Stage.INFERENCE, Stage.EXPORT, retries=1)
    stage(Stage.CHAT, Stage.EXPORT, retries=1)

    wait(list(built.values()))  # not .result(): a stage that never became ready would raise here
    unfinished = [str(name) for name, future in built.items() if not future.state.is_completed()]
    if unfinished:
        return Failed(message=f"not finished: {', '.join(unfinished)}; finished stages are kept, run again to continue")
    ran = [str(name) for name, future in built.items() if future.state.name != "Cached"]
    return Completed(message=f"ran {', '.join(ran)}" if ran else "every stage was up to date")


def run(force: list[str] | None = None) -> State[Any]:
    """Run the flow in this process with as many concurrent stages as runtime.yaml allows."""
    runner: Any = ThreadPoolTaskRunner(max_workers=load_runtime(ROOT / "runtime.yaml").concurrent_stages)
    return pipeline.with_options(task_runner=runner)(force, return_state=True)
