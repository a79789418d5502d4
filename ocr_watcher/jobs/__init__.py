"""One job from the queue to its record."""
