"""Run directories: how a run is set up, what it writes, and how its files are read back."""
