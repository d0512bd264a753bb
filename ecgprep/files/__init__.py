"""Files that are whole or absent, and where a user's outputs may go."""
