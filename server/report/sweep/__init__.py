"""The report of a sweep: one HTML file of what its cells add up to."""
