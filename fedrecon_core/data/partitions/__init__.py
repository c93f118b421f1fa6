"""Partition schemes, which assign training samples to sites: one file per scheme."""
