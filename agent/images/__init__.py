"""Images: pull policies, references, credentials."""
