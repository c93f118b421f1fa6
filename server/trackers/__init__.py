"""Trackers, which record a run while it is in progress: one file for each."""
