"""From a file or a text to the array of a modality: one file per feature. Used only by the preparation of data."""
