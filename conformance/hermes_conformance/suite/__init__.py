"""Running the suite: which laws and cases, how they are judged, and what is reported."""
