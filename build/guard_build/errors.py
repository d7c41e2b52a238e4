"""The error of a build."""

import errno


class BuildFailed(Exception):
    """The slot was not built. A slot that existed before is unchanged. The text says what to do."""


def reason(error: OSError) -> str:
    """Why the system refused, and the file that it refused, where it names one."""
    why = error.strerror or str(error)
    return f"{error.filename}: {why}" if error.filename else why


def is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
