"""Reports of runs and sweeps as HTML, of data sets as pictures and tables, and the final table in the terminal."""
