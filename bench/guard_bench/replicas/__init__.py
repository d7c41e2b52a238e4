"""Real gateways before several Tritons of a slot: `guard bench replicas`.

replica_bench    what is started: null engines behind proxies, gateways, half load
outcome          one row of the table
cases            all cases by name
capacity         one replica and four, with 1, 4 and 8 gateways
replica_faults   kill -9, SIGSTOP, a dead stub, a black hole, five times each
recovery         whether a replica that was hit is back, as every gateway sees it
changes          replicas come and go by list and by DNS, a swap over two sets, another slot's files
slow             one replica at a fifth of the others' speed
chats            growing chats before the CPU engine
overload         twice the capacity by many gateways
cost             a gateway's processor time with one replica, beside that of an older checkout
gateway_variant  a gateway with another policy, or with names that a file gives
replica_table    the outcomes for people, and as a table of docs/scaling.md

The null engines have a fixed capacity, so counts and ratios say something on a busy machine too.
"""
