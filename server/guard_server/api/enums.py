"""Maps the domain's enums to the protobuf enums and back."""

from guard_core.conversation import Role
from guard_core.verdict.policy import Action
from guard_core.verdict.readings import MarkerTreatment, Way
from guard_core.verdict.taxonomy import Category, Severity
from qwen3guard.v1 import types_pb2

SEVERITIES = {one: types_pb2.Severity.Value(f"SEVERITY_{one.name}") for one in Severity}
CATEGORIES = {one: types_pb2.Category.Value(f"CATEGORY_{one.name}") for one in Category}
REFUSALS = {True: types_pb2.REFUSAL_YES, False: types_pb2.REFUSAL_NO}
ACTIONS = {one: types_pb2.Action.Value(f"ACTION_{one.name}") for one in Action}
READINGS = {one: types_pb2.Reading.Value(f"READING_{one.name}") for one in Way}

ROLE_OF = {types_pb2.Role.Value(f"ROLE_{one.name}"): one for one in Role}
CATEGORY_OF = {number: category for category, number in CATEGORIES.items()}
ACTION_OF = {number: action for action, number in ACTIONS.items()}
CONTROVERSIAL = {
    types_pb2.CONTROVERSIAL_TREATMENT_UNSPECIFIED: Action.BLOCK,
    types_pb2.CONTROVERSIAL_TREATMENT_STRICT: Action.BLOCK,
    types_pb2.CONTROVERSIAL_TREATMENT_LOOSE: Action.ALLOW,
    types_pb2.CONTROVERSIAL_TREATMENT_REVIEW: Action.REVIEW,
}
MARKERS: dict[int, MarkerTreatment | None] = {
    types_pb2.MarkerTreatment.Value(f"MARKER_TREATMENT_{one.name}"): one for one in MarkerTreatment
}
MARKERS[types_pb2.MARKER_TREATMENT_UNSPECIFIED] = None
