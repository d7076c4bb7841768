"""Training: a run set up or resumed, the loop that makes its optimizer steps, and its records."""
