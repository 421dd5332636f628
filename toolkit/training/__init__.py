"""What carries out one run: ``build`` prepares it, ``loop`` fits and evaluates it."""
