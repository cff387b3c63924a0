"""The ``sampler`` command: one module a command, everything heavy imported when a command runs."""
