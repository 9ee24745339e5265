"""A gallery as a folder of files, which any engine can be read into and filled from."""
