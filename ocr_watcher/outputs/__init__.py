"""From what was read to files beside the document."""
