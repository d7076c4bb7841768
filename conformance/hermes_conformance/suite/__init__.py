"""The suite: which laws and cases run, how, and what is reported."""
