"""The `serving` command: one module a command."""
