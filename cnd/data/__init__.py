"""Data sources: one file each, all giving :class:`cnd.protocols.FmriDataset`; how the items are split."""
