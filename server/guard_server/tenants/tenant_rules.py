"""What each tenant may ask for, and which policy its requests mean, by tenants.json."""

from dataclasses import dataclass, replace

from guard_core.errors import RequestInvalid, SlotNotAllowed, Violation, quoted
from guard_core.tenants.tenant_file import Tenant, TenantFile
from guard_core.verdict.policy import Policy
from guard_server.pipeline.request import ModerationRequest
from guard_server.routing.caller import Identity


@dataclass(frozen=True, slots=True)
class _TenantRules:
    policy: Policy | None  # of requests that bring none, with the floor
    floor: Policy | None
    slots: frozenset[str] | None  # None: all
    scores: bool
    isolated: bool


class Rules:
    """Those of one gateway process. Without a file all callers have the server's settings."""

    def __init__(self, *, allow_slot_choice: bool, isolate_callers: bool) -> None:
        self._allow_slot_choice = allow_slot_choice
        self._isolate_callers = isolate_callers
        self.follow(TenantFile())

    def follow(self, file: TenantFile) -> None:
        """Takes up a file, for requests from now on."""
        policies = {name: policy.compiled(name) for name, policy in file.policies.items()}
        self._policies = policies
        self._measured = {name for name, tenant in file.tenants.items() if tenant.metrics}
        self._others = self._compiled(file.others, policies)
        self._tenants = {
            name: self._compiled(tenant, policies) for name, tenant in file.tenants.items()
        }

    def measured_as(self, identity: Identity) -> str:
        """The tenant's name in metrics."""
        name = identity.tenant
        return name if name in self._measured else "others"

    def ruled(self, identity: Identity, request: ModerationRequest) -> ModerationRequest:
        """The request as it is judged for this caller.

        Raises SlotNotAllowed, or RequestInvalid with the field that the caller may not use.
        """
        rules = self._tenants.get(identity.tenant, self._others)
        if request.slot and rules.slots is not None and request.slot not in rules.slots:
            raise SlotNotAllowed(
                "Naming a slot is for operators. Leave `slot` empty, or have the server let you "
                "name this one: --allow-slot-choice, or your tenant's `slots`."
            )
        if request.with_scores and not rules.scores:
            raise _invalid("with_scores", "is not for your tenant: the server has scores off.")
        policy = self._named(request.policy_name) if request.policy_name else request.policy
        if policy is None:
            policy = rules.policy
        elif rules.floor is not None:
            policy = replace(policy, floor=rules.floor)
        if policy is request.policy and not rules.isolated:
            return request
        return replace(request, policy=policy, isolated=rules.isolated)

    def _named(self, name: str) -> Policy:
        found = self._policies.get(name)
        if found is None:
            raise _invalid("policy_name", f"{quoted(name)} is no policy of this server.")
        return found

    def _compiled(self, tenant: Tenant, policies: dict[str, Policy]) -> _TenantRules:
        slots = None if self._allow_slot_choice else frozenset[str]()
        policy = policies[tenant.policy] if tenant.policy is not None else None
        floor = policies[tenant.floor] if tenant.floor is not None else None
        if floor is not None:
            policy = replace(policy or Policy(), floor=floor)
        return _TenantRules(
            policy,
            floor,
            slots if tenant.slots is None else frozenset(tenant.slots),
            tenant.scores,
            tenant.isolated or self._isolate_callers,
        )


def _invalid(field: str, description: str) -> RequestInvalid:
    return RequestInvalid([Violation(field, description)])
