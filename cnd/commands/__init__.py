"""What ``python -m cnd`` can do, one file a command."""
