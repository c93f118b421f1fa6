"""The cells of a sweep side by side: tables and figures of scores, of what they cost, and of what sets them apart."""
