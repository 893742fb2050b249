"""SS-AE: self-supervised reconstruction by an image encoder and a decoder trained through it (Gaziv et al. 2022)."""
