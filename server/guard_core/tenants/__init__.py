"""Who the callers are to the platform: their keys, and what each tenant has."""
