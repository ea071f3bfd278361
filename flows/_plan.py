"""What would run and why, what is there already, and what came out: text for the terminal."""

import json
from typing import Any

from flows import ROOT
from flows._status import live_stages
from tasks import _forecast, _keys, _machine
from tasks._files import size_bytes
from tasks.stages import NUMBER, Stage


def cascade(own_reasons: dict[str, Any], graph: dict[str, list[str]]) -> dict[str, str]:
    """Stage -> why it would run, own reasons first, then those inherited from upstream; fresh stages are absent."""
    why: dict[str, str] = {}
    for name, upstream in graph.items():
        stale_upstream = [up for up in upstream if up in why]
        if name in own_reasons:
            why[name] = _keys.explain(own_reasons[name])
        elif stale_upstream:
            why[name] = f"follows {', '.join(stale_upstream)}"
    return why


def show_plan() -> None:
    """Print every stage that would run, its reason and its predicted duration."""
    graph = _keys.stage_graph()
    why = cascade(_keys.status_of_all(), graph)
    predictions = _predictions()
    total = 0.0
    for name in graph:
        seconds = predictions.get(name)
        expected = f"~{seconds:5.0f} s" if seconds is not None else "      ?"
        if name in why:
            total += seconds or 0.0
            print(f"run    {NUMBER[Stage(name)]:>3} {name:<13} {expected}  {_clip(why[name])}")
        else:
            print(f"cached {NUMBER[Stage(name)]:>3} {name:<13}")
    if not why:
        print("nothing would run: every stage is up to date")
    else:
        print(f"{len(why)} of {len(graph)} stages would run, about {total:.0f} s by the last plan")
        print("a stage that 'follows' another is skipped when that one's output comes out unchanged")


def show_status() -> None:
    """Print the table of stages: state, seconds predicted and measured, size, key."""
    graph = _keys.stage_graph()
    why = cascade(_keys.status_of_all(), graph)
    predictions = _predictions()
    print(f"{'no.':>4} {'stage':<13} {'state':<7} {'predicted':>10} {'measured':>10} {'size':>10}  key")
    total, running = [0.0, 0.0], {live.stage for live in live_stages(ROOT) if live.running}
    for name in graph:
        metrics = _metrics(name)
        predicted = metrics.get("predicted", {}).get("seconds") or predictions.get(name)
        measured = metrics.get("measured", {}).get("seconds")
        folder = ROOT / "artifacts" / name
        size = _size(size_bytes(folder)) if folder.exists() else "-"
        key = (_keys.recorded(name) or "-")[:12]
        total[0] += predicted or 0.0
        total[1] += measured or 0.0
        state = "running" if name in running else "stale" if name in why else "fresh"
        head = f"{NUMBER[Stage(name)]:>4} {name:<13} {state:<7}"
        print(f"{head} {_seconds(predicted)} {_seconds(measured)} {size:>10}  {key}")
    print(f"{'':>4} {'all':<13} {'':<7} {_seconds(total[0])} {_seconds(total[1])}")


def show_conversation() -> None:
    """Print the conversation the chat stage held with the served model."""
    path = ROOT / "artifacts" / "chat" / "conversation.md"
    if path.exists():
        print("\n" + path.read_text(encoding="utf-8").strip())


def show_next_steps() -> None:
    """Print where to look next."""
    print(
        "\nnext: make chat        talk to the model in the terminal\n"
        "      make serve       the same in a browser, with an OpenAI-compatible API\n"
        "      make up          Prefect UI (watch, retry) and MLflow UI (compare, promote)\n"
        "      artifacts/evaluation/report.md    scores with intervals, samples, plots\n"
        "      python -m flows lineage champion  from this model back to its documents"
    )


def _metrics(stage: str) -> dict[str, Any]:
    path = ROOT / "metrics" / f"{stage}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _predictions() -> dict[str, float]:
    return {stage: own["seconds"].value for stage, own in _forecast.current(_machine.fingerprint(), ROOT).items()}


def _seconds(value: float | None) -> str:
    return f"{value:>8.1f} s" if value is not None else f"{'-':>10}"


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _clip(text: str, limit: int = 160) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
