"""Frozen latent diffusion models behind one interface (:class:`cnd.protocols.Generator`); only these use diffusers."""
