"""A client of a running server's DeploymentService that prints the answers.

With `json` each answer is one line: the contract's message as JSON, with all its fields.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import grpc
import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from rich.console import Console
from rich.markup import escape

from guard_cli.options import fail, slot_directory
from guard_cli.slots_table import problems, table
from qwen3guard.v1 import deployment_pb2 as pb
from qwen3guard.v1 import deployment_pb2_grpc

_LIST_S = 10


class DeploymentClient:
    """An error of the service ends the command with its message."""

    def __init__(
        self,
        control: str,
        credentials: grpc.ChannelCredentials | None,
        *,
        json: bool,
        slots: Mapping[str, Path] | None = None,
    ) -> None:
        """`control`: its gRPC address; a Unix socket takes no credentials.

        `slots`: those that a fleet can have, and their files here by name.
        """
        self._control = control
        self._slots = slots
        self._json = json
        self._credentials = credentials
        self._out = Console()

    def show_slots(self, *, watch: bool, replicas: bool) -> None:
        """Prints the table of slots, with `replicas` each Triton; then, with `watch`, events."""
        with self._service() as service:
            listed = service.ListSlots(pb.ListSlotsRequest(), timeout=_LIST_S)
            if not self._said(listed):
                self._out.print(table(listed, replicas=replicas))
                for who, problem in problems(listed):
                    self._out.print(f"[red]{escape(who)}:[/] {escape(problem)}")
            if not watch:
                return
            for event in service.WatchEvents(pb.WatchEventsRequest()):
                if self._said(event):
                    continue
                time = event.time.ToDatetime().strftime("%H:%M:%S")
                colour = "red" if event.alarm else "default"
                slot = f"{event.slot}: " if event.slot else ""
                self._out.print(f"[dim]{time}[/] [{colour}]{escape(slot + event.text)}[/]")

    def deploy(
        self,
        candidate: Path,
        *,
        resume: bool,
        data: Path | None,
        ignored_keys: Sequence[str],
        min_agreement: float | None,
        verify_in_flight: int,
        shadow_share: float,
        shadow_seconds: float,
        ready_timeout: float,
        steps: Sequence[int],
        pause: float,
        max_factor: float,
        keep_old: bool,
        prepare: bool,
    ) -> None:
        """Prints the rollout's steps. Times are seconds, `steps` percent of the traffic.

        `candidate`: a slot's name or directory; of a fleet its name.
        """
        request = pb.DeployRequest(
            directory=str(self._directory(candidate).resolve()),
            resume=resume,
            data=str(data.resolve()) if data else "",
            ignored_keys=ignored_keys,
            min_agreement=min_agreement,
            verify_in_flight=verify_in_flight,
            shadow_share=shadow_share,
            shadow_time=_duration(shadow_seconds),
            ready_timeout=_duration(ready_timeout),
            shift=_shift(steps, pause, max_factor, keep_old),
            prepare_only=prepare,
        )
        with self._service() as service:
            self._follow(service, service.Deploy(request))

    def _directory(self, candidate: Path) -> Path:
        if self._slots is None:
            return slot_directory(candidate)
        if str(candidate) not in self._slots:
            known = ", ".join(sorted(self._slots))
            fail(f"FLEET.yaml has no slot {candidate}; it has: {known}.", code=2)
        return self._slots[str(candidate)]

    def promote(
        self, slot: str, *, steps: Sequence[int], pause: float, max_factor: float, keep_old: bool
    ) -> None:
        request = pb.PromoteRequest(slot=slot, shift=_shift(steps, pause, max_factor, keep_old))
        with self._service() as service:
            self._follow(service, service.Promote(request))

    def rollback(self, *, keep: bool) -> None:
        with self._service() as service:
            reply = service.Rollback(pb.RollbackRequest(keep=keep))
            if not self._said(reply):
                self._out.print(f"[green]{reply.slot} has all of the traffic.[/]")

    def shadow(self, slot: str, share: float) -> None:
        with self._service() as service:
            wanted = pb.Shadow(slot=slot, share=share)
            reply = service.SetTraffic(pb.SetTrafficRequest(shadow=wanted))
            if self._said(reply):
                return
            if share:
                self._out.print(
                    f"{slot} shadows {share:.0%} of the requests: `guard slots` shows the "
                    "comparison."
                )
            else:
                self._out.print("Shadowing has ended.")

    def drain(self, slot: str, *, stop: bool) -> None:
        with self._service() as service:
            reply = service.Drain(pb.DrainRequest(slot=slot, stop=stop))
            if not self._said(reply):
                self._out.print(f"{slot} is {'stopped' if stop else 'idle'}.")

    def _said(self, message: Message) -> bool:
        """Prints it as JSON, if that is wanted."""
        if self._json:
            # Not by rich, which would wrap it.
            sys.stdout.write(
                MessageToJson(
                    message,
                    preserving_proto_field_name=True,
                    always_print_fields_with_no_presence=True,
                    indent=None,
                )
                + "\n"
            )
            sys.stdout.flush()
        return self._json

    @contextmanager
    def _service(self) -> Iterator[Any]:
        """The stub."""
        options = [("grpc.enable_http_proxy", 0)]
        channel = (
            grpc.secure_channel(self._control, self._credentials, options)
            if self._credentials
            else grpc.insecure_channel(self._control, options)
        )
        with channel:
            try:
                yield deployment_pb2_grpc.DeploymentServiceStub(channel)
            except grpc.RpcError as error:
                self._fail(error)
            except KeyboardInterrupt:
                raise typer.Exit(130) from None

    def _fail(self, error: grpc.RpcError) -> NoReturn:
        assert isinstance(error, grpc.Call)  # noqa: S101  (grpc raises both in one)
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            fail(
                f"No server answers at {self._control} ({error.details()}). "
                "Start one: `guard serve`."
            )
        fail(str(error.details() or error.code().name))

    def _follow(self, service: Any, steps: Any) -> None:
        """Prints each step. Ctrl-C ends the rollout."""
        try:
            for reply in steps:
                self._print(reply.progress)
        except KeyboardInterrupt:
            steps.cancel()
            listed = service.ListSlots(pb.ListSlotsRequest(), timeout=_LIST_S)
            weights = ", ".join(f"{slot.name} {slot.weight}" for slot in listed.slots)
            out = Console(stderr=True) if self._json else self._out
            out.print(
                f"Stopped. The traffic stays as it is: {weights}. "
                "`guard promote SLOT` continues, `guard rollback` goes back."
            )
            raise

    def _print(self, progress: pb.Progress) -> None:
        if self._said(progress):
            return
        colour = {pb.STEP_DONE: "green", pb.STEP_ROLLBACK: "red"}.get(progress.step, "cyan")
        name = pb.Step.Name(progress.step).removeprefix("STEP_").replace("_", " ").lower()
        self._out.print(f"[{colour}]{name:<9}[/] {escape(progress.text)}", highlight=False)


def _shift(steps: Sequence[int], pause: float, max_factor: float, keep_old: bool) -> pb.Shift:
    return pb.Shift(steps=steps, pause=_duration(pause), max_factor=max_factor, keep_old=keep_old)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(round(seconds * 1e6))
    return duration
