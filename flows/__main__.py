"""`python -m flows <command>`: plan, status, run, ledger, calibrate, report, lineage, up, promote, serve, gc."""

import argparse
import sys
from collections.abc import Callable

from tasks._errors import StageError
from tasks.stages import Stage


def main(arguments: list[str] | None = None) -> int:
    """Dispatch to the command; a StageError becomes one clear message and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m flows", description="Plan, run, watch and trace the pipeline.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    commands.add_parser("plan", help="what would run, cascading, and why")
    status = commands.add_parser(
        "status", help="what is running; every stage: fresh or stale, key, size, seconds predicted and measured"
    )
    status.add_argument("--watch", action="store_true", help="only what is running, again every 2 s")
    run = commands.add_parser("run", help="run what is stale; finished stages end as Cached")
    run.add_argument(
        "--force", nargs="+", default=[], metavar="STAGE", choices=[str(s) for s in Stage], help="run although fresh"
    )
    ledger = commands.add_parser("ledger", help="what was forecast beside what was measured, over all runs")
    ledger.add_argument("--record", action="store_true", help="let pipeline_math/*.md quote the newest runs")
    commands.add_parser("calibrate", help="learn this machine's constants from the ledger")
    commands.add_parser("report", help="reports/run.html: plan, forecasts, measurements, verdict, plots")
    lineage = commands.add_parser("lineage", help="from a model back to runs, keys and source documents")
    lineage.add_argument("model", help="registered version (3), alias (champion) or a path below artifacts/")
    lineage.add_argument("--document", metavar="ID", help="also the rows of the shards that hold this document")
    up = commands.add_parser(
        "up", help="Prefect and MLflow servers on loopback, and the deployment that the UI can retry"
    )
    up.add_argument("--prefect-port", type=int, default=4200)
    up.add_argument("--mlflow-port", type=int, default=5000)
    promote = commands.add_parser("promote", help="make a registered version the champion")
    promote.add_argument("version", help="registered version (3) or alias (candidate)")
    serve = commands.add_parser("serve", help="serve a registered model or an exported folder over HTTP")
    serve.add_argument("--model", default="champion", help="alias, version or folder (default: champion)")
    serve.add_argument("--port", type=int, default=None)
    serve.add_argument("--backend", choices=["engine", "vllm"], default="engine")
    gc = commands.add_parser(
        "gc", help="remove scratch and cached outputs nothing refers to; shows first, --yes removes"
    )
    gc.add_argument("--yes", action="store_true")

    options = parser.parse_args(arguments)
    try:
        return COMMANDS[options.command](options)
    except StageError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _plan(_: argparse.Namespace) -> int:
    from flows import _plan as plan

    plan.show_plan()
    return 0


def _status(options: argparse.Namespace) -> int:
    from flows import _status as status

    if options.watch:
        status.watch()
    if status.show_live():  # at once: the rest takes as long as DVC does
        print(flush=True)
    from flows import _plan as plan

    plan.show_status()
    return 0


def _run(options: argparse.Namespace) -> int:
    from flows import _plan as plan
    from flows._servers import some_server

    some_server()
    from flows.pipeline import run

    state = run(options.force)
    print()
    plan.show_status()
    plan.show_conversation()
    print(f"\n{state.type.value.lower()}: {state.message}")
    if not state.is_completed():
        return 1
    plan.show_next_steps()
    return 0


def _ledger(options: argparse.Namespace) -> int:
    from flows import _ledger as ledger

    if options.record:
        ledger.record_runs()
    else:
        ledger.show_ledger()
    return 0


def _calibrate(_: argparse.Namespace) -> int:
    from flows._ledger import show_calibration

    show_calibration()
    return 0


def _report(_: argparse.Namespace) -> int:
    from flows import ROOT
    from flows._report import write_report

    print(write_report(ROOT).relative_to(ROOT))
    return 0


def _lineage(options: argparse.Namespace) -> int:
    from flows._lineage import show_lineage

    show_lineage(options.model, options.document)
    return 0


def _up(options: argparse.Namespace) -> int:
    from flows._servers import up

    return up(options.prefect_port, options.mlflow_port)


def _promote(options: argparse.Namespace) -> int:
    from flows.promote import promote

    promote(options.version)
    return 0


def _serve(options: argparse.Namespace) -> int:
    from flows.serve import serve_model

    return serve_model(options.model, options.port, options.backend)


def _gc(options: argparse.Namespace) -> int:
    from flows._gc import collect

    collect(remove_them=options.yes)
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "plan": _plan,
    "status": _status,
    "run": _run,
    "ledger": _ledger,
    "calibrate": _calibrate,
    "report": _report,
    "lineage": _lineage,
    "up": _up,
    "promote": _promote,
    "serve": _serve,
    "gc": _gc,
}

if __name__ == "__main__":
    sys.exit(main())
