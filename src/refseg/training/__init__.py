"""Runs: named, small, and ready to be killed."""
