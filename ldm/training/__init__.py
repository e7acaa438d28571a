"""Floor 5: training. Only here and above is Lightning imported."""
