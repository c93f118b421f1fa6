"""Recoveries, one file each: how absent modalities are filled, with which models, stages and transfer plan."""
