"""Floor 5: scores of sampled images: subject, prompt, diversity, copies of photos; which checkpoint to use."""
