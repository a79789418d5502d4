"""The other commands: once, doctor, status, retry."""
