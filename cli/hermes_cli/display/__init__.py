"""What the terminal shows: progress, summaries, streamed text, help."""
