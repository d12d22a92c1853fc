"""What a reviewer opens: one page a notebook, and the front page of a study."""
