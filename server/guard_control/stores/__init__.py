"""Where a fleet's traffic.json is, and how it is replaced.

traffic_store  what all of them do: read, and replace what was read
file_store     a file, under a lock
config_map_store   a ConfigMap, by its resourceVersion
command_store  a command of the operator's, by the generation
"""
