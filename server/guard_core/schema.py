"""What all file formats share: strict records, and one way to say what is wrong."""

from pydantic import BaseModel, ConfigDict, ValidationError


class Record(BaseModel):
    """Can't be changed, and refuses keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def first_problem(error: ValidationError, whole: str = "the file") -> str:
    """The first thing wrong as `key: reason`, without the input, which may be content.

    `whole` stands for the key where the problem is with all of the input.
    """
    first = error.errors(include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or whole
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"
