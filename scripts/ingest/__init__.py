"""Images of a folder or a CSV on their way into a server's gallery."""
