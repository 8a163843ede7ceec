"""Evaluation: protocols, metrics, stored predictions, results and calibration."""
