"""The worker program: loads a model, registers, beats, serves."""
