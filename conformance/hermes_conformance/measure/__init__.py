"""How far apart two results are, and how far they may be."""
