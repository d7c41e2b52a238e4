"""What the control plane takes from its machine, and gives back however it ends.

child_process   starts a child that can't outlive this process; what /proc says of it
orphans         what a server that was killed left running
control_socket  where a server's control plane listens, and how a command finds it
private_files   has a program make files for its own user alone
ownership       the run directory and ports that no other server uses
shared_memory   files in memory that no server leaves behind
"""
