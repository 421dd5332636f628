"""What is on disk: the files that a run leaves, how they are written and read, and their mirror."""
