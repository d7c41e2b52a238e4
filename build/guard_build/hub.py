"""Finds a checkpoint: a directory, or a download from a model hub at a pinned commit."""

import re
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from guard_build.checkpoint import HUB_FILES
from guard_build.errors import BuildFailed, is_full, reason
from guard_core.slot.manifest import Source

_ERRNO = re.compile(r"\[Errno -?\d+\] ")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on this machine."""

    directory: Path
    name: str
    source: Source | None = None
    """The hub that it was downloaded from; None for a plain directory."""


def find_checkpoint(checkpoint: str | Path, revision: str | None = None) -> Checkpoint:
    """Finds `checkpoint`, a directory or a hub id (`org/name`), and downloads a hub id.

    `revision` is a branch, a tag or a commit of the hub; the result names the commit. If the hub
    can't be reached, an earlier download is used. Raises BuildFailed.
    """
    found = local_checkpoint(checkpoint, revision)
    return found or _download(str(checkpoint), revision or constants.DEFAULT_REVISION)


def local_checkpoint(checkpoint: str | Path, revision: str | None = None) -> Checkpoint | None:
    """The same for a directory; None for a hub id. Raises BuildFailed if it is neither."""
    directory = Path(checkpoint)
    if directory.is_dir():
        if revision is not None:
            raise BuildFailed(
                f"{directory} is a directory, and only a hub id has a revision. Leave out "
                "--revision."
            )
        return Checkpoint(directory, directory.resolve().name)
    if directory.exists() or not _HUB_ID.fullmatch(str(checkpoint)):
        raise BuildFailed(
            f"{checkpoint} is neither a directory nor a hub id (org/name). Name one of them with "
            "--checkpoint."
        )
    return None


def _download(repository: str, revision: str) -> Checkpoint:
    """Downloads into the hub client's cache, each file only once."""
    hub = constants.ENDPOINT
    try:
        # The hub's client draws its own progress bar.
        directory = Path(
            snapshot_download(repository, revision=revision, allow_patterns=[*HUB_FILES])
        )
    except RevisionNotFoundError as error:
        raise BuildFailed(
            f"{repository} at {hub} has no revision {revision}. Name one of its "
            "branches, tags or commits with --revision."
        ) from error
    except RepositoryNotFoundError as error:
        raise BuildFailed(
            f"{hub} has no {repository} for you, and no directory of that name exists. If it is "
            "private or gated, set HF_TOKEN to a token that may read it."
        ) from error
    except (OSError, ValueError, httpx2.HTTPError) as error:
        cause = _first_cause(error)
        if isinstance(cause, OSError) and (cause.filename or is_full(cause)):
            raise BuildFailed(
                f"The download of {repository} can't be written ({reason(cause)}). Free some space "
                f"in {constants.HF_HOME}, or name another directory with HF_HOME."
            ) from error
        raise BuildFailed(
            f"Could not download {repository} at revision {revision}: {hub} could not be reached "
            f"or gave no valid answer ({_shown(cause)}), and no earlier download is "
            "complete. Without a network, download the checkpoint elsewhere and pass its "
            "directory: guard build --checkpoint DIR"
        ) from error
    # The cache names a snapshot by its commit, whatever the revision was.
    source = Source(hub_id=repository, revision=directory.name)
    return Checkpoint(directory, repository.split("/")[1], source)


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _shown(cause: BaseException) -> str:
    lines = _ERRNO.sub("", str(cause)).splitlines()
    return f"{type(cause).__name__}: {lines[0] if lines else 'no details'}"
