"""What the scripts in `download/` run: files of the Hugging Face Hub, with their hashes checked."""
