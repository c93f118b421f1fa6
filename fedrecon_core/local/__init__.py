"""The local round of a site, which runs a list of stages, and the scoring of models."""
