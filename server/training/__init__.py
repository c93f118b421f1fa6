"""The rounds of a run: training, evaluation, checkpoints, and progress on the terminal."""
