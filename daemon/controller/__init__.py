"""Who is there: the registry of workers, heartbeats, probes, dispatch, and FastChat's controller routes."""
