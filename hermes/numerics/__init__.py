"""What every backend computes with: the table of parameters, positions, random numbers."""
