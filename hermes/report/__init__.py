"""What a run says about itself: its metrics file, its curves, and what a terminal shows."""
