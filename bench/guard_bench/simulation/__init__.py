"""Gateways before replicas, as events in simulated time: a policy is judged before it is built.

The gateways choose, limit and retry by the product's own modules, `guard_core.balancing`.
`python -m guard_bench.simulation.scaling_cases` runs the cases of docs/scaling.md.
"""
