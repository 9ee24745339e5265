"""What `POST /retrieve` costs beyond its engine, while writes run beside it, against peers, and as galleries grow."""
