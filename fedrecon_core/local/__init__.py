"""The local round of a site, and the scoring of a model: stages run as data."""
