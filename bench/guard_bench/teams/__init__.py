"""What tenants cost a gateway, and how exactly their quotas and turns hold."""
