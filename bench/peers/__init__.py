"""The CPU engine beside other engines: the same tokens, in one interleaved run.

`python -m peers.compare` (from bench/) starts one worker process for each engine, and lets them
work one at a time. The workers of other engines run in an environment of their own and import
nothing of this project but `peers.worker`.
"""
