"""Modality kinds, one file each: the encoder, decoder and extractor of images, sequences and vectors."""
