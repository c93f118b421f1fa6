"""The server side of a run: rounds, checkpoints, engines, reports and the ``fedrecon`` command."""
