"""What a terminal shows: progress, summaries, streamed text."""
