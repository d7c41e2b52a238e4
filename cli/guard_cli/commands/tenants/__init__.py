"""Commands for the tenants of a server: they change or check the files that it follows."""
