"""Importing a table (CSV or Parquet) and the files that it names, by a mapping of its columns."""
