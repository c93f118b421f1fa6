"""The report of a sweep: one self-contained HTML file that compares its trials."""
