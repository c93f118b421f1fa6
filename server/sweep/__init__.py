"""``fedrecon sweep``: a matrix of runs, written as one YAML, run over cores or a Ray cluster, gone on with at will."""
