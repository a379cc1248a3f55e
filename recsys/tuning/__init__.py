"""Tuning: which configuration serves a log best, found on its tail."""
