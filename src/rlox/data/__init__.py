"""What it is learned from: logged columns, their formats and checks, datasets and their summary."""
