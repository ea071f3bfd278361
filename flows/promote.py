"""promote: a person makes a registered version the champion; serving follows the alias."""

from tasks import _tracking
from tasks._errors import StageError


def promote(reference: str) -> str:
    """Point `champion` at a version (number or alias) and return the version; the former one is kept as a tag."""
    client = _tracking.client()
    version = resolve_version(client, reference)
    former = _tracking.by_alias(client, _tracking.CHAMPION)
    if former is not None and former.version == version:
        print(f"version {version} is the champion already")
        return version
    _tracking.promote(client, version, by="python -m flows promote")
    print(f"champion: version {former.version if former else 'none'} -> {version}")
    return version


def resolve_version(client: object, reference: str) -> str:
    """The version number behind a number or an alias; StageError lists what is registered when there is none."""
    known = {v.version: v for v in _tracking.versions(client)}
    if reference in known:
        return reference
    found = _tracking.by_alias(client, reference)
    if found is None:
        listed = ", ".join(sorted(known, key=int)) or "none yet (run the pipeline first)"
        raise StageError(f"'{reference}' is neither a registered version nor an alias; registered versions: {listed}")
    return found.version
