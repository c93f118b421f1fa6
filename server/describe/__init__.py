"""What a data set holds, as tables and as a picture: counts, the pattern of presence, lengths."""
