"""Why a build can fail."""


class BuildFailed(Exception):
    """The slot was not built; a slot that was there before is untouched."""
