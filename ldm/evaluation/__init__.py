"""Floor 4: what drawn pictures are worth: what they show, whether it is what was asked for, and the right thing."""
