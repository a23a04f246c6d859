"""What each probe runs in its child process, one file per family."""
