"""Data sets, site folders, the allocation of samples to sites, and missingness; independent of models."""
