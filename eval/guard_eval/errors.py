"""What ends an evaluation before its report."""


class EvaluationFailed(Exception):
    """The text says what happened and what to do."""


class DataInvalid(EvaluationFailed):
    """A file that can't be evaluated; the text names the line and what is wrong with it."""
