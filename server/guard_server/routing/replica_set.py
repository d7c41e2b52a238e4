"""A slot's replicas: which there are, which one answers a request, and a second try elsewhere.

Replicas come by a list or by a name's addresses. One that is removed gets no new requests, unless
no other one is ready yet, and is closed after its last one.
"""

import asyncio
import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from guard_core.balancing.expected_time import Work, pick
from guard_core.balancing.retry_budget import RetryBudget
from guard_core.conversation import Message, Role, mode_of
from guard_core.engine.tensors import Generated, Generation
from guard_core.errors import EngineFailed, Unavailable
from guard_core.slot.slot import Slot
from guard_core.slot.traffic import TritonDns, TritonList, Tritons
from guard_server.routing.discovery import changes_of
from guard_server.routing.replica import Replica, ReplicaOptions

_KEY_CHARACTERS = 256  # about 64 tokens
_RANDOM = random.Random()  # noqa: S311 - no secret


class ReplicaSet:
    """From the first `follow` to `close` its replicas are watched and can be asked."""

    def __init__(
        self, slot: Slot, options: ReplicaOptions, most: int, changed: Callable[[], None]
    ) -> None:
        """`most`: requests in flight that each replica takes. `changed` is called after each change
        of which ones are ready, or of their limits.
        """
        self.ready: list[Replica] = []
        self.replicas: dict[str, Replica] = {}  # by address; not those that drain
        self.limit = most  # of each replica at first
        self.budget = RetryBudget()
        self._most = most
        self._slot = slot
        self._options = options
        self._changed = changed
        self._leaving: set[str] = set()  # removed, but no other one is ready yet
        self._draining: dict[asyncio.Task[None], Replica] = {}
        self._ask_now = asyncio.Event()
        self._lookup: asyncio.Task[None] | None = None

    @property
    def total_limit(self) -> float:
        """Requests in flight that the ready replicas take together; of one if none is ready."""
        limits = [one.load.limit for one in self.ready]
        return sum([int(limit) if limit >= 1 else limit for limit in limits]) or self.limit

    @property
    def all(self) -> Sequence[Replica]:
        """Those that drain first: an address may have come again meanwhile."""
        return (*self._draining.values(), *self.replicas.values())

    @property
    def draining(self) -> Sequence[Replica]:
        return tuple(self._draining.values())

    def follow(self, tritons: Tritons) -> None:
        """These Tritons are the slot's from now on."""
        if self._lookup is not None:
            self._lookup.cancel()
            self._lookup = None
        match tritons:
            case TritonList():
                self._use(dict.fromkeys(tritons.list, ""), several=True)
            case TritonDns():
                self._lookup = asyncio.create_task(self._follow_name(tritons.dns))
            case address:
                self._use({address: ""}, several=False)

    def share_limit(self, limit: int) -> None:
        """This process's share of what each replica takes: their limits move from there."""
        self.limit = limit
        for replica in self.replicas.values():
            replica.start_limit(limit)
        self._changed()

    async def close(self) -> None:
        """Cuts off requests in flight. May be repeated."""
        tasks = [*self._draining, *([self._lookup] if self._lookup else ())]
        replicas = self.all
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(replica.close() for replica in replicas))

    def route(self, routing_key: str, messages: Sequence[Message]) -> "Route":
        """What one request asks: it chooses its replica, and keeps it."""
        return Route(self, routing_key, messages)

    async def _follow_name(self, name: str) -> None:
        host = name.rpartition(":")[0]
        async for found in changes_of(name, self._ask_now):
            self._use(dict.fromkeys(sorted(found), host), several=True)

    def _use(self, wanted: Mapping[str, str], *, several: bool) -> None:
        """`wanted`: by address, the name that TLS verifies."""
        self._leaving = set(self.replicas) - set(wanted)
        for triton, name in wanted.items():
            if triton not in self.replicas:
                replica = Replica(
                    self._slot,
                    triton,
                    self._options,
                    limit=self.limit,
                    most=self._most,
                    verified_name=name,
                    one_of_several=several,
                    changed=self._readiness_changed,
                    others=partial(self._others, triton),
                )
                self.replicas[triton] = replica
                replica.open()
        self._readiness_changed()

    def _others(self, triton: str) -> Sequence[Replica]:
        return [one for name, one in self.replicas.items() if name != triton]

    def _readiness_changed(self) -> None:
        before = len(self.ready)
        ready = {name for name, replica in self.replicas.items() if replica.ready}
        for name in self._leaving if ready - self._leaving else self._leaving - ready:
            replica = self.replicas.pop(name)
            task = asyncio.create_task(replica.drain())
            self._draining[task] = replica
            task.add_done_callback(self._draining.pop)
        self._leaving &= set(self.replicas)
        self.ready = [self.replicas[name] for name in self.replicas if name in ready]
        if len(self.ready) < before:
            self._ask_now.set()
        self._changed()


class Route:
    """The engine of one request: a replica, and once another one if that fails."""

    __slots__ = ("_messages", "_replica", "_replicas", "_retried", "_routing_key")

    def __init__(self, replicas: ReplicaSet, routing_key: str, messages: Sequence[Message]) -> None:
        self._replicas = replicas
        self._routing_key = routing_key
        self._messages = messages
        self._replica: Replica | None = None
        self._retried = False

    async def generate(self, wanted: Generation) -> Generated:
        """Raises Unavailable, Overloaded or EngineFailed."""
        ready = self._replicas.ready
        if self._replica in ready:
            tokens = 1  # of a second call: nearly all of its prompt is in the KV cache there
        else:
            self._replica, tokens = self._pick(ready, wanted)
        replica = self._replica
        try:
            return await replica.generate(wanted, tokens)
        except (Unavailable, EngineFailed) as error:
            failed = isinstance(error, EngineFailed)
            replicas = self._replicas
            others = [one for one in replicas.ready if one is not replica]
            if self._retried or not others or not replicas.budget.take(replicas.total_limit):
                raise
        # The same question gives the same verdict, so it may be asked twice.
        self._retried = True
        replica.stats.retried += 1
        self._replica, tokens = self._pick(others, wanted)
        answer = await self._replica.generate(wanted, tokens)
        if failed:
            replica.at_fault()
        return answer

    def _pick(self, ready: Sequence[Replica], wanted: Generation) -> tuple[Replica, int]:
        tokens = len(wanted.prompt)
        if len(ready) == 1:
            return ready[0], tokens
        if not ready:
            raise Unavailable("No replica of the slot is ready. Try again in a moment.")
        self._replicas.budget.requested(self._replicas.total_limit)
        work = Work(self._key(), tokens, self._reusable(tokens))
        return pick(ready, work, time.monotonic(), _RANDOM)

    def _key(self) -> int:
        """64 bits that all requests of a conversation share: of how it begins, up to its user.

        In prompt mode they differ from those in response mode: the prompts differ from their first
        tokens on, so neither finds the other's KV cache.
        """
        digest = hashlib.blake2b(
            self._routing_key.encode(), digest_size=8, person=mode_of(self._messages).name.encode()
        )
        if not self._routing_key:
            for message in self._messages:
                digest.update(message.content[:_KEY_CHARACTERS].encode(errors="replace"))
                if message.role is Role.USER:
                    break
        return int.from_bytes(digest.digest())

    def _reusable(self, tokens: int) -> int:
        """About how many of the prompt's tokens are of messages before the last one."""
        sizes = [len(message.content) for message in self._messages]
        return tokens * (sum(sizes) - sizes[-1]) // max(1, sum(sizes))
