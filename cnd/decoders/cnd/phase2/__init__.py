"""Phase 2: concept-aware conditioning of a frozen latent diffusion model (sec. 3.3)."""
