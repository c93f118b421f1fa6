"""The site folder: what a site's owner prepares, and how a site opens it without reading its arrays.

``dataset.yaml`` holds the data specification and the size and SHA-256 of every file; ``samples.parquet`` a row per
sample (id, label, split, group, where that is another unit natural, and ``has_<modality>``);
``arrays/<modality>.npy`` the rows of the samples that have the modality, in the samples' order, for sequences of
different lengths concatenated in time, with the borders in ``arrays/<modality>.offsets.npy``. A modality that the site
lacks altogether has no array.

A check (``check``) reads everything once and leaves ``.checked/``: a stamp, by which a later change is seen, and
the table of samples in a form that needs no Parquet reader and is mapped, since a site's process is started for every
message. The stamp holds the SHA-256 of ``dataset.yaml`` and of the other files size and time: bytes that were changed
with both kept are not seen when the folder is opened, only by a check.
"""
