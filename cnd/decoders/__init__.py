"""Decoders, from fMRI to images: one file or folder each, its settings beside it."""
