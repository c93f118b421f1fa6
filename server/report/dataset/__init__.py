"""Description of a data set: its numbers, shown as tables in a terminal and as one picture."""
