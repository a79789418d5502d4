"""From the bytes of a file to small pages, whatever the bytes are."""
