"""What users would run instead, and the bare minimum: each in a process of its own, started as `servers.py` says."""
