"""Where it acts: environments, their spaces, the collector."""
