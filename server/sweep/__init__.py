"""``fedrecon sweep``: runs a grid of trials, defined in one YAML, over local cores or a Ray cluster, and resumes it."""
