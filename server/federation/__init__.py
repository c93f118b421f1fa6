"""The sites of a run: who takes part, what they are sent, and which replies are accepted."""
