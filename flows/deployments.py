"""`python -m flows.deployments`: the flows a Prefect UI can start and retry on this machine.

zero2chat/local   the whole pipeline; only runs started through a deployment have a Retry button in the UI
promote/local     a person makes a version the champion
serve/local       the serving task: keeps the chat server running on the champion until the run is cancelled
"""

from typing import Any

from prefect import flow, serve

from flows.pipeline import pipeline
from flows.promote import promote
from flows.serve import serve_model


def main() -> None:
    """Serve the deployments until stopped."""
    flows: list[Any] = [pipeline, flow(name="promote")(promote), flow(name="serve")(serve_model)]
    serve(*(each.to_deployment(name="local") for each in flows))


if __name__ == "__main__":
    main()
