"""What every figure of a report shows: once, for the page, for files and for W&B. Pure."""
