"""Floor 4: training. Only here and above is Lightning imported."""
