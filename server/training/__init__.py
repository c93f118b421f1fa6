"""The rounds of a run: training, evaluation, checkpoints, and what a person sees of them."""
