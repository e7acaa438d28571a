"""Floor 8: what the root scripts call. Options are parsed before anything heavy is imported."""
