"""Certificates: issued, shown as a page, and verified."""
