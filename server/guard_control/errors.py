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
    pass


class NoSuchSlot(NotMade):
    pass


class Refused(NotMade):
    pass


class Busy(NotMade):
    pass


class TakenOver(NotMade):
    pass


STATUS: dict[type[NotMade], grpc.StatusCode] = {
    Meaningless: grpc.StatusCode.INVALID_ARGUMENT,
    NoSuchSlot: grpc.StatusCode.NOT_FOUND,
    Refused: grpc.StatusCode.FAILED_PRECONDITION,
    Busy: grpc.StatusCode.ABORTED,
    TakenOver: grpc.StatusCode.ABORTED,
}
