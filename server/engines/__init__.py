"""Engines: where the sites of a run are executed. One file per engine, found through ``base.ENGINES``."""
