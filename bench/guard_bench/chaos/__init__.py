"""Faults of every process under load: what callers notice, and when verdicts are back.

faults        what is done to which process
server        `guard serve` with one slot or two, its processes by name, and its end by force
load          calls with known verdicts, with our client's retries and without
fault_result  what one fault did, and the table of all
run           the plan: `make chaos`
"""
