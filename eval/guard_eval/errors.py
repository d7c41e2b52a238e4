"""Errors that end an evaluation or a verification before its report."""


class EvaluationFailed(Exception):
    """The text says what happened and what to do."""


class DataInvalid(EvaluationFailed):
    """A file that can't be used; the text names the file, the line and the key, and no content."""
