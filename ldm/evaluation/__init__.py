"""Floor 4: what drawn images are worth: what they show, whether it is what was asked for, and the right thing."""
