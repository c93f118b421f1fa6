"""The official files of published data sets, and of arrays that others wrote: how they lie, and how they are read."""
