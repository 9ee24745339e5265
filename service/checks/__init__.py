"""The checks of `candor doctor`, a module for each subject: none changes anything."""
