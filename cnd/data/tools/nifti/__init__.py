"""Scans, events and a mask to the folder that :mod:`cnd.data.folder` reads: ``python -m cnd.data prepare nifti``."""
