"""Certificates: what a run proved, issued, shown as a page, kept, and verified."""
