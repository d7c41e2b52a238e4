"""Faults of every process under load: what callers notice, and when verdicts are back.

run            the plan: `make chaos`
made           one fault under load: until its effect is seen, and all is well again
setups         what is served in which way while it is hit, and by which faults
faults         which faults there are of the processes of `guard serve`
hits           what is done to them, and by what its effect is seen
server         `guard serve`, its processes by name, and its end by force
gateways       gateways before an engine of its own, behind a proxy
process_tree   what runs below a process that we started
stalling_proxy a network that stops forwarding
small_disk     a disk that is full, or read-only
moved_clock    a wall clock that jumps
load           calls with known verdicts, with our client's retries and without
fault_result   what one fault did, and the table of all
"""
