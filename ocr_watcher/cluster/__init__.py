"""More than one machine: `dispatch` offers shared folders, `bridge` brings their documents to a daemon."""
