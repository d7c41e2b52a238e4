"""What operators do with the slots of a running server: clients of DeploymentService."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import grpc
import typer
from google.protobuf.duration_pb2 import Duration
from rich.console import Console
from rich.markup import escape

from guard_cli.commands.slots_table import table
from guard_cli.options import fail, slot_directory
from qwen3guard.v1 import deployment_pb2 as pb
from qwen3guard.v1 import deployment_pb2_grpc

_LIST_S = 10

Control = Annotated[str, typer.Option("--control", help="The server's control port, HOST:PORT.")]
Steps = Annotated[str, typer.Option(help="Percent of the traffic, step by step.")]
Pause = Annotated[float, typer.Option(help="Seconds that each step is watched.", min=0)]
MaxFactor = Annotated[
    float,
    typer.Option(help="Error rate and p99 may be the active slot's times this.", min=1),
]
KeepOld = Annotated[
    bool, typer.Option("--keep-old", help="Leave the old slot warm: a rollback takes no time.")
]
_CONTROL, _STEPS, _PAUSE, _FACTOR = "127.0.0.1:50052", "5,25,50,100", 10.0, 2.0


def slots(
    watch: Annotated[bool, typer.Option("--watch", help="Then print events as they come.")] = False,
    control: Control = _CONTROL,
) -> None:
    """Show the slots, their traffic and what came of it."""
    out = Console()
    with _service(control) as service:
        listed = service.ListSlots(pb.ListSlotsRequest(), timeout=_LIST_S)
        out.print(table(listed))
        for worker in listed.workers:
            if worker.refused:
                out.print(f"[red]Gateway process {worker.pid}:[/] {escape(worker.refused)}")
        if not watch:
            return
        for event in service.WatchEvents(pb.WatchEventsRequest()):
            time = event.time.ToDatetime().strftime("%H:%M:%S")
            colour = "red" if event.alarm else "default"
            slot = f"{event.slot}: " if event.slot else ""
            out.print(f"[dim]{time}[/] [{colour}]{escape(slot + event.text)}[/]")


def deploy(
    candidate: Annotated[Path, typer.Argument(help="A built slot: its name or directory.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Conversations to verify with, JSON Lines.", exists=True, dir_okay=False),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            help="The agreement with the active slot that is enough, on the data and on live "
            "requests.",
            min=0,
            max=1,
        ),
    ] = None,
    verify_in_flight: Annotated[
        int, typer.Option(help="Conversations verified at once.", min=1)
    ] = 2,
    shadow_share: Annotated[
        float, typer.Option(help="Share of live requests to shadow before it.", min=0, max=1)
    ] = 0.1,
    shadow_seconds: Annotated[float, typer.Option(help="How long to shadow.", min=0)] = 10,
    ready_timeout: Annotated[
        float, typer.Option(help="Seconds to the engine's first verdicts.", min=1)
    ] = 300,
    steps: Steps = _STEPS,
    pause: Pause = _PAUSE,
    max_factor: MaxFactor = _FACTOR,
    keep_old: KeepOld = False,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="End once it is warm and verified.")
    ] = False,
    control: Control = _CONTROL,
) -> None:
    """Swap to another slot: check, start, warm up, verify, shadow, shift, drain, stop the old.

    A gate that fails takes everything back. Ctrl-C leaves the traffic as it is then.
    """
    request = pb.DeployRequest(
        directory=str(slot_directory(candidate).resolve()),
        data=str(data.resolve()) if data else "",
        min_agreement=min_agreement,
        verify_in_flight=verify_in_flight,
        shadow_share=shadow_share,
        shadow_time=_duration(shadow_seconds),
        ready_timeout=_duration(ready_timeout),
        shift=_shift(steps, pause, max_factor, keep_old),
        prepare_only=prepare,
    )
    with _service(control) as service:
        _follow(service, service.Deploy(request))


def promote(
    slot: Annotated[str, typer.Argument(help="A slot that runs.")],
    steps: Steps = _STEPS,
    pause: Pause = _PAUSE,
    max_factor: MaxFactor = _FACTOR,
    keep_old: KeepOld = False,
    control: Control = _CONTROL,
) -> None:
    """Shift the traffic to a slot that runs, step by step, with the same gates as deploy."""
    request = pb.PromoteRequest(slot=slot, shift=_shift(steps, pause, max_factor, keep_old))
    with _service(control) as service:
        _follow(service, service.Promote(request))


def rollback(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the slot that loses the traffic warm.")
    ] = False,
    control: Control = _CONTROL,
) -> None:
    """Give all traffic back, at once, to the slot that had it; ends a swap that is under way."""
    with _service(control) as service:
        reply = service.Rollback(pb.RollbackRequest(keep=keep))
        Console().print(f"[green]{reply.slot} has all of the traffic.[/]")


def shadow(
    slot: Annotated[str, typer.Argument(help="A slot that runs.")],
    share: Annotated[
        float, typer.Option(help="Of the live requests; 0 ends it.", min=0, max=1)
    ] = 0.1,
    control: Control = _CONTROL,
) -> None:
    """Have a slot judge a share of the live requests too, for comparison only."""
    with _service(control) as service:
        service.SetTraffic(pb.SetTrafficRequest(shadow=pb.Shadow(slot=slot, share=share)))
        if share:
            Console().print(f"{slot} judges {share:.0%} too: `guard slots` shows what comes of it.")
        else:
            Console().print("Nothing is shadowed any more.")


def drain(
    slot: Annotated[str, typer.Argument(help="A slot that runs.")],
    stop: Annotated[bool, typer.Option("--stop", help="Then stop its Triton.")] = False,
    control: Control = _CONTROL,
) -> None:
    """Take a slot's traffic away and wait until nothing is in flight there."""
    with _service(control) as service:
        service.Drain(pb.DrainRequest(slot=slot, stop=stop))
        Console().print(f"{slot} is {'stopped' if stop else 'idle'}.")


@contextmanager
def _service(control: str) -> Iterator[Any]:
    """The stub. What the service refuses ends the command, with the reason."""
    with grpc.insecure_channel(control, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            yield deployment_pb2_grpc.DeploymentServiceStub(channel)
        except grpc.RpcError as error:
            _fail(error, control)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def _fail(error: grpc.RpcError, control: str) -> NoReturn:
    assert isinstance(error, grpc.Call)  # noqa: S101  (grpc raises both in one)
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        fail(f"No server is controlled at {control} ({error.details()}). Start one: `guard serve`.")
    fail(str(error.details()))


def _follow(service: Any, steps: Any) -> None:
    """Prints each step. Ctrl-C ends the swap there."""
    out = Console()
    try:
        for reply in steps:
            _print(out, reply.progress)
    except KeyboardInterrupt:
        steps.cancel()
        listed = service.ListSlots(pb.ListSlotsRequest(), timeout=_LIST_S)
        weights = ", ".join(f"{slot.name} {slot.weight}" for slot in listed.slots)
        out.print(
            f"Stopped. The traffic stays as it is: {weights}. "
            "`guard promote SLOT` goes on, `guard rollback` goes back."
        )
        raise


def _print(out: Console, progress: pb.Progress) -> None:
    colour = {pb.STEP_DONE: "green", pb.STEP_ROLLBACK: "red"}.get(progress.step, "cyan")
    name = pb.Step.Name(progress.step).removeprefix("STEP_").replace("_", " ").lower()
    out.print(f"[{colour}]{name:<9}[/] {escape(progress.text)}", highlight=False)


def _shift(steps: str, pause: float, max_factor: float, keep_old: bool) -> pb.Shift:
    try:
        percents = [int(step) for step in steps.split(",")]
    except ValueError:
        fail(f"--steps {steps}: give percent with commas between them, such as {_STEPS}.", code=2)
    return pb.Shift(
        steps=percents, pause=_duration(pause), max_factor=max_factor, keep_old=keep_old
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(round(seconds * 1e6))
    return duration
