"""What a comparison shows: a table in the terminal and predictions side by side."""
