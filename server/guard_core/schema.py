"""What all file formats share: strict records, and one way to say what is wrong."""

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, ValidationError


class Record(BaseModel):
    """Can't be changed, and refuses keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def problems(error: ValidationError) -> Iterator[tuple[str, str]]:
    """All that is wrong: key and reason, without the input, which may be content.

    The key is "" where the problem is with all of the input.
    """
    for one in error.errors(include_input=False):
        where = ".".join(str(part) for part in one["loc"])
        yield where, one["msg"].removeprefix("Value error, ")


def first_problem(error: ValidationError, whole: str = "the file") -> str:
    """The first of them as `key: reason`; `whole` stands for the key where there is none."""
    where, reason = next(problems(error))
    return f"{where or whole}: {reason}"
