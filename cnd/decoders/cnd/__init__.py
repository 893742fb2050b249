"""The paper's decoder, CnD: Phase 1, Phase 2, and both together."""
