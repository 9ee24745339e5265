"""What `candor fit` needs beside the other stages."""
