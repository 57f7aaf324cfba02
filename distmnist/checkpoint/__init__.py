"""What training is resumed from, and what is read of it."""
