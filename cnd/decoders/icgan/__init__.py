"""fMRI-ICGAN: ridge regressions into the inputs of an instance-conditioned GAN (Ozcelik et al. 2022)."""
