"""The HTTP server: takes documents in, hands their records out. It decodes nothing and loads no model."""
