"""The result of one check of the contract."""

from pydantic import BaseModel


class Finding(BaseModel):
    """What was asked, what a gateway assumes of the answer, and the answer."""

    check: str
    wanted: str
    found: str
    passed: bool


def equal(check: str, found: object, wanted: object) -> Finding:
    return Finding(check=check, wanted=str(wanted), found=str(found), passed=found == wanted)


def holds(check: str, *, passed: bool, wanted: str, found: object) -> Finding:
    return Finding(check=check, wanted=wanted, found=str(found), passed=passed)
