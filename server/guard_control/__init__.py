"""The control plane of one machine: its Tritons, its gateway processes, and swaps between slots.

process       a child that can't outlive this process
triton        one Triton                     slots         the Tritons of all slots, kept alive
workers       the gateway processes          plane         the traffic, and who follows it
verification  a candidate's verdicts         gates         a candidate's errors and latency
swap          deploy, promote, rollback      service       DeploymentService
events        what happens, for watchers     report        the slots, as the contract has them
errors        why a change was not made      supervisor    all of this, as `guard serve` runs it
"""
