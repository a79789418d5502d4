"""More than one machine: `dispatch` offers a shared inbox to a broker, `bridge` brings its jobs to a daemon."""
