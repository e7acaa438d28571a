"""Floor 4: fine-tuning. Lightning wraps the model here and nowhere below."""
