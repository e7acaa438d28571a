"""The reliability campaign's parts: what is done to the commands, and how it is seen that nothing was lost."""
