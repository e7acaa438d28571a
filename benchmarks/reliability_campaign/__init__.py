"""The reliability campaign's parts: faults for the commands, and the checks that nothing was lost."""
