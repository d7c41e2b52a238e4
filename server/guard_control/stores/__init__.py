"""Where a fleet's traffic.json is, and how it is replaced.

traffic_store  what all of them do: read, and replace what was read
file_store     a file, under a lock
"""
