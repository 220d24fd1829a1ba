"""What a user trains."""
