"""Frozen latent diffusion models behind one interface (:class:`cnd.protocols.Generator`); only here is diffusers used."""
