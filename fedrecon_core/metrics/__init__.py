"""Metrics of predictions, one file each, and the coherence of generated values. They do not depend on models."""
