"""Figures of a sweep: a file for each kind, all drawn on figures of their own, without pyplot and its global state."""
