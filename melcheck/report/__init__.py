"""One run as HTML, Markdown, JSON, and a baseline for the next."""
