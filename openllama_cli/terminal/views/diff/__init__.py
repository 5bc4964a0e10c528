"""What `olc diff` shows: rows in columns or side by side (`rows`), and as a web page (`page`)."""
