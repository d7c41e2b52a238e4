"""Compares the CPU engine with other engines, on the same tokens, in one interleaved run.

`python -m peers.interleaved` (from bench/) starts one worker process per engine and measures them
one at a time. The workers of other engines run in their own environment and import only
`peers.worker` from this project.
"""
