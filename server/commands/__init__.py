"""The ``fedrecon`` command line, one file per command group."""
