"""The shipped unit under a real systemd. Run by `make test-systemd`: needs root and systemd-nspawn."""
