"""CnD: decode images from fMRI, and measure honestly which parts of the decoder matter."""

__version__ = "0.1.0"
