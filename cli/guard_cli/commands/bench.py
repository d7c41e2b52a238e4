"""`guard bench`: what this machine reaches."""

import typer

from guard_cli.lazy import LazyCommand, lazy_group

# By name. The help is the first paragraph of the command's docstring.
BENCHMARKS = {
    "engine": LazyCommand(
        "bench_engine:engine",
        "The CPU engine alone, with random weights of true shapes and the real token counts.",
        "build",
    ),
    "swap": LazyCommand(
        "bench_swap:swap",
        "Swaps between INT8 and f32 of the tiny guard under an open-loop load, nothing retried.",
        "build",
    ),
    "gateway": LazyCommand(
        "bench_gateway:gateway",
        "The gateway before a null engine and beside a bare proxy, under overload, and before the "
        "slot's own engine.",
        "build",
    ),
    "attacks": LazyCommand(
        "bench_callers:attacks",
        "A caller that would take all from another one, from another address and from the same "
        "one: what the other one gets.",
        "build",
    ),
    "live": LazyCommand(
        "bench_callers:live",
        "Answers that are judged while they are written: their ends, their cost, a slow engine, "
        "stops, what goes away under them, unary calls beside them.",
        "build",
    ),
    "replicas": LazyCommand(
        "bench_gateway:replicas",
        "Gateways before several Tritons of a slot: shared work, replicas that are lost, slow or "
        "changed under load, chats, overload.",
        "build",
    ),
    "teams": LazyCommand(
        "tenants.bench_teams:teams",
        "A gateway with tenants: its processor time beside one without, its quotas over one and "
        "four workers, and turns behind a proxy's one connection.",
        "build",
    ),
    "load": LazyCommand(
        "bench_load:load",
        "Calls at random moments to a running server, in plain text, and how each of them ended.",
    ),
    "perf": LazyCommand(
        "bench_gateway:perf",
        "Sweep the gateway and Triton with perf_analyzer (`make perf` gets it, and draws).",
        "build",
    ),
    "soak": LazyCommand(
        "bench_gateway:soak",
        "Calls with random deadlines and cancels on a gateway before a slot's CPU engine, and what "
        "is left of them: requests in flight and queued, the engine's blocks, memory.",
        "build",
    ),
}

bench = typer.Typer(
    help="Measure what this machine reaches.", cls=lazy_group(BENCHMARKS), no_args_is_help=True
)


@bench.callback()
def _group() -> None:
    """So that Typer takes it for a group: it has no command of its own."""
