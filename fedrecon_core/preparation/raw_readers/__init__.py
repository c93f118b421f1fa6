"""Readers of the official files of published data sets and of .npz archives."""
