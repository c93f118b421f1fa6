"""Preparation of data: from raw files or tables to site folders."""
