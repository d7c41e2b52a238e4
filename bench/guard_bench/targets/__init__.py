"""What the benchmarks put under load.

cpu_engine          the CPU engine in this process, with weights of random_checkpoint
null_engine         a slot whose engine (null_engine_model, run by Triton) costs nothing
gateway_process     `python -m guard_server` before a Triton
proxy               the bare proxy that the gateway is compared with
guard_serve         `guard serve` with its control plane
processes           how all of these are started, stopped and given ports
"""
