"""From a file or a text to the array of a modality: one file per feature. Only the preparation of data comes here."""
