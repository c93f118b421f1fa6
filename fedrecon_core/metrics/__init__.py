"""Metrics, one file each, and the traffic account. They know no model."""
