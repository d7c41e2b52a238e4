"""The listener's TLS: its files, checked and followed, and the callers that it lets in."""
