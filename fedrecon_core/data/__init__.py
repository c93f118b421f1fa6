"""Data sets, one file each; who holds which samples; what is absent. Knows no model."""
