"""The result of one check of the contract."""

from pydantic import BaseModel


class Finding(BaseModel):
    """What was asked, what a gateway assumes of the answer, and the answer.

    `passed` is None where the engine gave nothing to compare with.
    """

    check: str
    wanted: str
    found: str
    passed: bool | None


def equal(check: str, found: object, wanted: object) -> Finding:
    return Finding(check=check, wanted=str(wanted), found=str(found), passed=found == wanted)


def holds(check: str, *, passed: bool | None, wanted: str, found: object) -> Finding:
    return Finding(check=check, wanted=wanted, found=str(found), passed=passed)
