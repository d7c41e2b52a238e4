"""What is measured, and the reports of it.

engine_throughput   `guard bench engine`, with the bound that roofline finds
engine_soak         python -m guard_bench.scenarios.engine_soak
gateway_speed, gateway_overload, gateway_cancel, recorded_requests
                    the parts of `guard bench gateway`; gateway_run is what they share
gateway_soak        `guard bench soak`
perf_analyzer       `guard bench perf`
swaps               `guard bench swap`, with triton_kill and its swap_report
"""
