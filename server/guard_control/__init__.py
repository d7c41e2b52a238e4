"""The control plane of one machine: runs the slots and moves the traffic between them.

supervisor       what `guard serve` runs: everything below, as one
api/             DeploymentService: one operation at a time; where it listens, and for whom
rollout/         deploy, promote and rollback, with their gates
fleets/          slots, their traffic and the processes that follow it: what a rollout moves
gateways/        a fleet whose gateways and Tritons a scheduler runs
stores/          where such a fleet's traffic is kept
traffic_files    what the workers follow, and what the next start resumes
rollback_target  the slot that a rollback goes back to, kept in a file
slot_processes   one Triton for each slot, restarted when it dies
triton_process   one Triton
loaded_model     what a Triton says of its model
triton_wheel     its binaries, for CPU engines
gateway_workers  the gateway processes, restarted when they die, and their statuses
keeper           tries again what keeps a process running
host/            child processes, files in memory, and what one server alone may use
events           what happens, for the log and for watchers
errors           why an operation failed

Imports run downwards: supervisor and api -> rollout -> fleets -> processes.
"""
