"""Applications as users have them, for the real hosts: the service is at the address in SERVICE."""
