"""Whom a run tells of itself while it goes on, beside its own files: one file for each tracker."""
