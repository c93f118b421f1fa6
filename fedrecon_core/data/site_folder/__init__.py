"""The site folder: the files that a site's owner prepares, and how a site opens them without reading its arrays.

``dataset.yaml`` contains the data specification, and the size and SHA-256 of every file. ``samples.parquet`` has a row
per sample: id, label, split, group, natural (where it differs from group) and ``has_<modality>``.
``arrays/<modality>.npy`` has the rows of the samples that have the modality, in the order of the samples; sequences of
different lengths are concatenated in time, with their offsets in ``arrays/<modality>.offsets.npy``. There is no array
for a modality that no sample of the site has.

A check (``check``) reads everything once and writes ``.checked/``: a stamp, by which later changes are detected, and
the table of samples as an array. A site maps this array instead of reading Parquet, because its process is started for
every message. The stamp contains the SHA-256 of ``dataset.yaml``, and the size and modification time of the other
files. A change that keeps both is not detected when the folder is opened, only by a check.
"""
