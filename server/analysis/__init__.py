"""Results of sweeps: the trials as a DataFrame, statistics, tables of scores and costs, and figures."""
