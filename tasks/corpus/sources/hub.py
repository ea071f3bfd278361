"""Sources that are fetched: dataset repositories of a Hugging Face hub, and lists of URLs.

A hub source is resolved to one commit, and its files are addressed by that commit: what a branch holds later does not
matter. HF_TOKEN, when set, is sent to the endpoint that params.yaml or HF_ENDPOINT names.
"""

import re
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator, model_validator

from tasks._errors import StageError
from tasks._params import StageParams
from tasks.corpus.sources.files import SUFFIXES
from tasks.corpus.sources.hub_repository import PAGE_SECONDS, Repository
from tasks.corpus.sources.remote import Patience, RemoteFile, check_name

EXAMPLES = 5
"""Names quoted in an error message."""


def _http(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not an address; allowed: http://host/... or https://host/...")
    return url


class Hub(StageParams):
    """Files of a dataset repository, in the order of their names."""

    kind: Literal["hub"]
    dataset: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")]
    """Repository, as owner/name."""
    revision: str = "main"
    """Branch, tag or commit; resolved once, when the source is pinned."""
    glob: str = "**/*.parquet"
    """Which files of the repository, such as "data/train-*.jsonl.gz"."""
    max_bytes: Annotated[int, Field(gt=0)] | None = None
    """Files are taken until their sizes reach this; the last one may exceed it."""
    shards: Annotated[int, Field(gt=0)] | None = None
    """Take the first so many files."""
    domain: str | None = None
    """Domain of records that name none; None: "files"."""
    endpoint: str | None = None
    """Address of the hub; None: HF_ENDPOINT, else the public hub."""

    @field_validator("endpoint")
    @classmethod
    def _endpoint_is_http(cls, value: str | None) -> str | None:
        return None if value is None else _http(value)

    @field_validator("glob")
    @classmethod
    def _glob_is_usable(cls, value: str) -> str:
        if value.startswith("/") or ".." in value.split("/"):
            raise ValueError(f"{value!r} leads outside the repository; allowed: a pattern such as 'data/*.parquet'")
        _pattern(value)
        return value


class Urls(StageParams):
    """Single files by address, in the order given."""

    kind: Literal["url"]
    urls: Annotated[tuple[str, ...], Field(min_length=1)]
    """http or https; the last component of the path is the file's name and tells its kind."""
    sha256: dict[str, str] = Field(default_factory=dict)
    """Expected digest per URL, where known beforehand; otherwise the first download is believed and pinned."""
    domain: str | None = None
    """Domain of records that name none; None: "files"."""

    @model_validator(mode="after")
    def _addresses_are_usable(self) -> "Urls":
        twice = sorted({url for url in self.urls if self.urls.count(url) > 1})
        unknown = sorted(set(self.sha256) - set(self.urls))
        for url in self.urls:
            _http(url)
        if twice:
            raise ValueError(f"named twice: {', '.join(twice)}; next: remove the copies")
        if unknown:
            raise ValueError(f"sha256 of no URL in `urls`: {', '.join(unknown)}; next: correct or remove it")
        for url, digest in self.sha256.items():
            if not re.fullmatch("[0-9a-f]{64}", digest):
                raise ValueError(f"sha256 of {url} is {digest!r}; allowed: 64 digits 0-9, a-f")
        return self


def list_remote(
    source: Hub | Urls,
    commit: str | None = None,
    patience: Patience | None = None,
    page_seconds: float = PAGE_SECONDS,
) -> list[RemoteFile]:
    """Every file of the source, without regard to `shards` and `max_bytes`; a hub's at `commit`, else as it is now.

    StageError: no such repository or commit, no access, no file matches, a name or kind of file that cannot be used.
    """
    if isinstance(source, Urls):
        return _list_urls(source)
    patience = patience or Patience()
    commit = commit or resolve(source, patience)
    repository = Repository.at(source.dataset, source.endpoint)
    entries = repository.files(commit, _fixed_folder(source.glob), patience, page_seconds)
    matches = re.compile(_pattern(source.glob)).match
    found = sorted((entry for entry in entries if matches(entry.path)), key=lambda entry: entry.path)
    if not found:
        present = ", ".join(sorted(entry.path for entry in entries)[:EXAMPLES]) or "nothing"
        raise StageError(
            f"{repository.where(commit)}: no file matches glob {source.glob!r}; found: {present}; next: correct `glob`"
        )
    _check_names(repository.where(commit), [entry.path for entry in found])
    return [
        RemoteFile(
            entry.path,
            repository.url(entry.path, commit),
            entry.lfs.size if entry.lfs else entry.size,
            entry.lfs.sha256 if entry.lfs else None,
            entry.blob_id,
            hub=True,
        )
        for entry in found
    ]


def resolve(source: Hub, patience: Patience | None = None) -> str:
    """The commit that the source's revision names at this moment."""
    return Repository.at(source.dataset, source.endpoint).resolve(source.revision, patience or Patience())


def _pattern(glob: str) -> str:
    """Regular expression of a glob; `*` stays within a folder, `**/` is any number of folders, none included."""
    from fsspec.utils import glob_translate

    return str(glob_translate(glob))


def _fixed_folder(glob: str) -> str:
    """The folder that holds everything a glob can match: a listing of a large repository need not go beyond it."""
    parts = PurePosixPath(glob).parts[:-1]
    special = next((i for i, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts))
    return "/".join(parts[:special])


def _list_urls(source: Urls) -> list[RemoteFile]:
    files, names = [], set[str]()
    for url in source.urls:
        name = unquote(urlsplit(url).path).rpartition("/")[2]
        if not name:
            raise StageError(f"corpus.sources: {url} ends without a file name; next: give the address of one file")
        if name in names:  # the first of a name keeps it, whatever is added behind
            name = f"{sha256(url.encode()).hexdigest()[:8]}-{name}"
        names.add(name)
        check_name(name)
        files.append(RemoteFile(name, url, None, source.sha256.get(url), None))
    _check_names("corpus.sources: url", [file.name for file in files])
    return files


def _check_names(where: str, names: list[str]) -> None:
    for name in names:
        check_name(name)
    unknown = [name for name in names if not name.endswith(SUFFIXES)]
    if unknown:
        raise StageError(
            f"{where}: {len(unknown)} file(s) of a kind that cannot be read, such as "
            f"{', '.join(unknown[:EXAMPLES])}; allowed: {', '.join(SUFFIXES)}; next: narrow `glob`, or leave them out"
        )
