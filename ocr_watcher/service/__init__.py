"""The daemon: what it is made of, its life, and what it tells of itself."""
