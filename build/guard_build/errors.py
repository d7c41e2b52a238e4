"""The error of a build."""


class BuildFailed(Exception):
    """The slot was not built. A slot that existed before is unchanged."""
