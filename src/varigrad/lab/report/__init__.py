"""What a comparison looks like: on the terminal, as PNG, as a page of HTML and as JSON."""
