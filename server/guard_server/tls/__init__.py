"""The listener's TLS: its files, checked and followed."""
