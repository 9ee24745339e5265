"""From what people call a bundle to its folder: a path, or `org/name[@revision]` of the Hugging Face hub.

The hub's own variables hold: `HF_HOME` for its cache, `HF_TOKEN`, `HF_ENDPOINT`, and `HF_HUB_OFFLINE` to look nowhere
but in the cache. A bundle in the cache is served where the hub cannot be reached.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.bundle import GRAPH_FILE, MANIFEST_FILE, BundleError

HUB_ID: Final = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?", re.ASCII)
MAIN: Final = "main"


@dataclass(frozen=True)
class Hub:
    """A commit of a repository, and the branch, tag or commit it was asked for by."""

    repository: str
    revision: str
    commit: str


@dataclass(frozen=True)
class Located:
    """A bundle's folder, and what it is on the hub, where it comes from there."""

    folder: Path
    hub: Hub | None = None


def locate(where: str, *, progress: bool = False) -> Located:
    """The folder of a bundle, downloaded where it is on the hub and not in the cache.

    A path that exists is a folder, whatever else it could be. Symbolic links are followed, so that one that is moved
    meanwhile is not followed to two places.

    Args:
        where: a path, or `org/name[@revision]`.
        progress: whether to show the progress of a download.

    Raises:
        BundleError: where the hub has no such thing, or it cannot be had from there.
    """
    path = Path(where).expanduser()
    named = HUB_ID.fullmatch(where)
    if named is None or path.exists():
        return Located(path.resolve())
    repository, revision = named[1], named[2] or MAIN
    folder = _download(repository, revision, progress=progress)
    return Located(folder, Hub(repository, revision, folder.name))


def _download(repository: str, revision: str, *, progress: bool) -> Path:
    """The folder of a commit in the cache, which is called by that commit."""
    from httpx2 import HTTPError  # these take a while to import, and few need them
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RevisionResolutionError
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars

    if not progress and not are_progress_bars_disabled():
        disable_progress_bars()
    files = [MANIFEST_FILE, GRAPH_FILE]
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=files, library_name="candor"))
    except (HTTPError, OSError, HFValidationError, RevisionResolutionError) as error:
        raise BundleError(_explain(error, repository, revision)) from error


def _explain(error: Exception, repository: str, revision: str) -> str:
    """What went wrong, and what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    match error:
        case GatedRepoError():
            return f"{repository} is gated: accept its terms on the hub, and set HF_TOKEN"
        case RepositoryNotFoundError():
            return (
                f"there is no folder {repository}, and the hub has no such repository or keeps it private: check the "
                "name, or set HF_TOKEN"
            )
        case RevisionNotFoundError():
            return f"{repository} has no branch, tag or commit {revision!r} on the hub"
        case LocalEntryNotFoundError():
            return (
                f"there is no folder {repository}, {repository}@{revision} is not in the cache of the hub, and the hub "
                "cannot be reached: connect, or fetch it into the cache (HF_HOME) with `candor bundle show` beforehand"
            )
        case _:
            return f"{repository}@{revision} cannot be had from the hub: {error}"
