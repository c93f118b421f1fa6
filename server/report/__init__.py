"""Run directories read back: the final table in the terminal, the reconstruction grid and the HTML report."""
