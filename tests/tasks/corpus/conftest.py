"""A hub on loopback for tests of remote sources."""

from collections.abc import Iterator

import pytest

from tests.tasks.corpus.remote_corpora import FILES, as_parquet, file_name, make_rows
from tests.tasks.corpus.sources.hub_server import HubServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("NO_PROXY", "*")
    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with HubServer() as running:
        for number in range(FILES):
            running.files[file_name(number)] = as_parquet(make_rows(number))
        yield running
