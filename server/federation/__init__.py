"""The sites of a run: registration, messaging, and validation of their replies."""
