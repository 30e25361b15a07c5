"""What the measurements on GPUs share: a daemon of their own, random models, a load, what the driver says."""
