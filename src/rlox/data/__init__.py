"""What it is learned from: spaces, environments, the collector, the replay."""
