"""Prefect and MLflow servers on loopback: find a running one, or start both and serve the deployment."""

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from flows import ROOT
from tasks._errors import StageError
from tasks._process import die_with_parent
from tasks._tracking import tracking_uri

_HEALTHY_SECONDS = 120.0


def use_running_server(port: int = 4200) -> bool:
    """Use the Prefect server on loopback if one answers and no other is chosen; call before importing Prefect."""
    if "PREFECT_API_URL" in os.environ:
        return True
    if _answers(f"http://127.0.0.1:{port}/api/health", seconds=0.5):
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
        return True
    return False


def some_server() -> None:
    """A Prefect server for this process: the running one, else a temporary one that dies with this process.

    Prefect would start a temporary server by itself, but that one survives a SIGKILL of the flow. Call before Prefect
    is imported: it reads the address then, and its own exit handler (the last log lines) must run before this one.
    """
    if use_running_server():
        return
    port = _free_port()
    logs = ROOT / "work" / "servers"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / "temporary.log"
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    print(f"starting a temporary Prefect server on port {port} (`make up` keeps one running)", flush=True)
    server = _start(command, log, {"PREFECT_UI_ENABLED": "false"})
    atexit.register(_stop, [server])
    _wait_healthy(f"http://127.0.0.1:{port}/api/health", server, log)
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"


def up(prefect_port: int, mlflow_port: int) -> int:
    """Start both servers, serve the pipeline's deployment, and stay until Ctrl-C."""
    for port in (prefect_port, mlflow_port):
        _require_free(port)
    for number in (signal.SIGTERM, signal.SIGINT):  # SIGINT too: a shell's background job starts with it ignored
        signal.signal(number, _interrupt)
    children: list[subprocess.Popen[bytes]] = []
    logs = ROOT / "work" / "servers"
    logs.mkdir(parents=True, exist_ok=True)
    try:
        prefect = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(prefect_port)]
        mlflow = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow_port), "--workers", "1"]
        mlflow += ["--backend-store-uri", tracking_uri(), "--artifacts-destination", str(ROOT / "mlartifacts")]
        children += [_start(prefect, logs / "prefect.log"), _start(mlflow, logs / "mlflow.log")]
        _wait_healthy(f"http://127.0.0.1:{prefect_port}/api/health", children[0], logs / "prefect.log")
        _wait_healthy(f"http://127.0.0.1:{mlflow_port}/health", children[1], logs / "mlflow.log")
        environment = {"PREFECT_API_URL": f"http://127.0.0.1:{prefect_port}/api"}
        serve = [sys.executable, "-m", "flows.deployments"]
        children.append(_start(serve, logs / "deployment.log", environment))
        print(f"Prefect  http://127.0.0.1:{prefect_port}   watch runs, start and retry deployment zero2chat/local")
        print(f"MLflow   http://127.0.0.1:{mlflow_port}   compare runs, promote models")
        print(f"logs     {logs.relative_to(ROOT)}/   Ctrl-C stops everything", flush=True)
        while all(child.poll() is None for child in children):
            time.sleep(1)
        raise StageError(f"a server ended by itself; next: read {logs.relative_to(ROOT)}/*.log")
    except KeyboardInterrupt:
        return 0
    finally:
        _stop(children)


def _start(command: list[str], log: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    program = shutil.which(command[0], path=str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", ""))
    with log.open("ab") as output:
        return subprocess.Popen(
            [program or command[0], *command[1:]],
            cwd=ROOT,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", **(environment or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
            start_new_session=True,  # Ctrl-C reaches this process, which then stops them in order
        )


def _stop(children: list[subprocess.Popen[bytes]]) -> None:
    """Last started, first stopped, each with its own children: the deployments sign off at the server they use."""
    for child in reversed(children):
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(8)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _wait_healthy(url: str, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _HEALTHY_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise StageError(f"the server for {url} ended with exit code {child.returncode}; next: read {log}")
        if _answers(url, seconds=2.0):
            return
        time.sleep(0.5)
    raise StageError(f"{url} did not answer within {_HEALTHY_SECONDS:.0f} s; next: read {log}")


def _answers(url: str, seconds: float) -> bool:
    try:
        return httpx.get(url, timeout=seconds).status_code == 200
    except httpx.HTTPError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as problem:
            raise StageError(
                f"port {port} on 127.0.0.1 is in use ({problem.strerror}); "
                f"next: stop the program that holds it, or pass --prefect-port / --mlflow-port"
            ) from None


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
