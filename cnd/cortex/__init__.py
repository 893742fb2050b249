"""Linear decoding of the frozen UNet's hidden states from voxels, on the cortex (sec. 3.4, 5.2)."""
