"""Several hosts on this machine, and a site rolled out to them over SSH: `make fleet`, and what the tests of
several hosts share. By hand: `python -m tests.fleet up|down`."""
