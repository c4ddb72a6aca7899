"""The ``concmem`` command: argument parsing and display, nothing else."""
