"""Looking at a model from outside: its next words, its speed."""
