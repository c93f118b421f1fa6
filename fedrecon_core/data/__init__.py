"""What a data set is, how sites store it, who holds which samples, and what is missing. Knows no model."""
