"""Carries out the scheduler's effects: worker processes, probes, logs."""
