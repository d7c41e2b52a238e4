"""Why a change was not made, and the one table that gives each its gRPC status.

NotMade
├── Meaningless     the request can't be meant
├── NoSuchSlot      no slot of that name runs
├── Refused         a gate failed, or the slots' state doesn't allow it
├── Busy            another change is being made
└── TakenOver       a rollback ended it
"""

import grpc


class NotMade(Exception):
    """A change that was not made. The text says why and what to do."""


class Meaningless(NotMade):
    """A value is out of its bounds, or a path is relative: INVALID_ARGUMENT."""


class NoSuchSlot(NotMade):
    """The request names a slot that does not run: NOT_FOUND, with the names of those that do."""


class Refused(NotMade):
    """A gate failed, a wait ran out, or the slots' state forbids it: FAILED_PRECONDITION."""


class Busy(NotMade):
    """Changes are made one at a time: ABORTED, and worth another try when that one is done."""


class TakenOver(NotMade):
    """A swap was cut short: ABORTED, with what took over."""


STATUS: dict[type[NotMade], grpc.StatusCode] = {
    Meaningless: grpc.StatusCode.INVALID_ARGUMENT,
    NoSuchSlot: grpc.StatusCode.NOT_FOUND,
    Refused: grpc.StatusCode.FAILED_PRECONDITION,
    Busy: grpc.StatusCode.ABORTED,
    TakenOver: grpc.StatusCode.ABORTED,
}
