"""Ask a Hugging Face hub what a dataset repository holds.

Promise  every failure is a StageError that names dataset, revision and hub; broken connections and temporary statuses
         are tried again, Retry-After is obeyed, and no answer is waited for without end
         HF_TOKEN, when set, goes to the endpoint; a token that some login once stored on this machine is never used
"""

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from tasks._errors import StageError
from tasks.corpus.sources.remote import TEMPORARY, Patience, hub_token, remedy, retry_after_seconds

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile
    from tenacity import RetryCallState

PUBLIC_HUB = "https://huggingface.co"
PAGE_SECONDS = 600.0
"""Longest wait for a page of a listing; the hub's library sets no limit of its own, and obeys Retry-After itself."""
NOT_A_HUB = "next: check `endpoint` and HF_ENDPOINT: this does not answer like a hub"
T = TypeVar("T")


class Repository(NamedTuple):
    """A dataset repository and the hub it is on."""

    dataset: str
    endpoint: str

    @classmethod
    def at(cls, dataset: str, endpoint: str | None) -> "Repository":
        """`endpoint` None: HF_ENDPOINT, else the public hub."""
        return cls(dataset, (endpoint or os.environ.get("HF_ENDPOINT") or PUBLIC_HUB).rstrip("/"))

    def where(self, revision: str) -> str:
        """For error messages."""
        return f"corpus.sources: dataset {self.dataset} at {revision} on {self.endpoint}"

    def url(self, name: str, commit: str) -> str:
        """Where a file of the repository lies at that commit."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.dataset, name, repo_type="dataset", revision=commit, endpoint=self.endpoint)

    def resolve(self, revision: str, patience: Patience) -> str:
        """The commit a branch, tag or commit names at this moment."""
        seconds = patience.read_seconds

        def ask() -> Any:
            return self._api().repo_info(self.dataset, revision=revision, repo_type="dataset", timeout=seconds)

        commit = _ask(self.where(revision), ask, patience).sha
        if not isinstance(commit, str) or not re.fullmatch("[0-9a-f]{40,64}", commit):
            raise StageError(f"{self.where(revision)} names commit {commit!r}; allowed: a hash; {NOT_A_HUB}")
        return commit

    def files(
        self, commit: str, folder: str, patience: Patience, page_seconds: float = PAGE_SECONDS
    ) -> "list[RepoFile]":
        """Every file below `folder` ("" = all) at that commit."""
        from huggingface_hub.hf_api import RepoFile

        def ask() -> list[RepoFile]:
            entries = self._api().list_repo_tree(
                self.dataset, folder or None, recursive=True, revision=commit, repo_type="dataset"
            )
            return [entry for entry in _within(entries, page_seconds) if isinstance(entry, RepoFile)]

        # The library itself tries a page again, up to five times.
        return _ask(self.where(commit), ask, patience._replace(attempts=1))

    def _api(self) -> Any:
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint, token=hub_token() or False)


def _within(entries: Iterable[T], seconds: float) -> Iterator[T]:
    """The entries, with a limit on the wait for each. TimeoutError beyond it."""
    queue: Queue[tuple[str, Any]] = Queue()

    def work() -> None:
        try:
            for entry in entries:
                queue.put(("entry", entry))
            queue.put(("end", None))
        except Exception as error:  # it belongs to whoever waits for the entries
            queue.put(("error", error))

    threading.Thread(target=work, daemon=True).start()
    while True:
        try:
            kind, item = queue.get(timeout=seconds)
        except Empty:
            raise TimeoutError(f"no answer within {seconds:,.0f} s") from None
        if kind == "end":
            return
        if kind == "error":
            raise item
        yield item


def _ask(where: str, ask: Callable[[], T], patience: Patience) -> T:
    """What the hub answers; broken connections and temporary statuses are tried again."""
    import httpx2  # the client inside huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

    def temporary(error: BaseException) -> bool:
        if isinstance(error, HfHubHTTPError):
            asked = retry_after_seconds(error.response.headers)
            return error.response.status_code in TEMPORARY and asked <= patience.max_retry_after_seconds
        return isinstance(error, httpx2.TransportError)

    first = patience.first_wait_seconds
    backoff = wait_exponential_jitter(initial=first, max=patience.max_wait_seconds, jitter=first)

    def pause(state: "RetryCallState") -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = retry_after_seconds(error.response.headers) if isinstance(error, HfHubHTTPError) else 0.0
        return max(asked, backoff(state))

    attempts = Retrying(
        stop=stop_after_attempt(patience.attempts), wait=pause, retry=retry_if_exception(temporary), reraise=True
    )
    try:
        return attempts(ask)
    except HfHubHTTPError as error:
        raise StageError(f"{where}: {_refusal(error)}") from None
    except ConnectionError as error:  # HF_HUB_OFFLINE
        raise StageError(
            f"{where}: {error}; next: let the first run ask the hub; later ones need only the pin"
        ) from None
    except (httpx2.TransportError, TimeoutError) as error:
        raise StageError(
            f"{where}: no connection: {type(error).__name__}: {error}; next: check the network, `endpoint` and "
            f"HF_ENDPOINT, and run again"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StageError(f"{where}: the answer makes no sense ({type(error).__name__}: {error}); {NOT_A_HUB}") from None


def _refusal(error: Any) -> str:
    """What a final answer means, and what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status = error.response.status_code
    if isinstance(error, RemoteEntryNotFoundError):
        return "there is no folder of the name that `glob` begins with; next: correct `glob`"
    if isinstance(error, RevisionNotFoundError):
        return (
            "there is no such revision; next: correct `revision`; if a pinned commit is gone for good, delete the pin "
            "of this source below data/pins to take what is there now"
        )
    if isinstance(error, GatedRepoError):
        return f"the dataset is gated; next: {remedy(403, hub=True)}"
    if isinstance(error, RepositoryNotFoundError):
        return f"there is no such dataset, or it is private; next: correct `dataset`, or {remedy(401, hub=True)}"
    return f"the hub answers {status} {error.response.reason_phrase}; next: {remedy(status, hub=True)}"
